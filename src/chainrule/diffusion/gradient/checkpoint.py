"""Checkpointing: store the states, which are tiny, and rebuild one step's graph at a time.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, at the granularity that
fits a sampling chain: a latent is thousands of times smaller than the graph of the step
that made it.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainrule.diffusion.gradient.base import Chain, Gradient, make_leaves
from chainrule.diffusion.gradient.replay import RandomNumbers
from chainrule.diffusion.gradient.tape import Rebuilt, Tape, guard, integrate_on_tape
from chainrule.diffusion.solvers.base import State
from chainrule.errors import UserError


@dataclass(frozen=True)
class Checkpoint(Gradient):
    """The exact gradient of any solver in constant activation memory.

    It costs one more forward pass for each step.

    Args:
        keep: How many steps, the last ones, keep their graphs and are not rebuilt: memory for time.
    """

    keep: int = 0

    def __post_init__(self) -> None:
        if self.keep < 0:
            raise UserError(
                f"Checkpoint cannot keep the graphs of {self.keep} steps",
                "choose 0 or more",
                "keep",
            )

    def integrate(self, chain: Chain, state: State) -> State:
        split = max(len(chain) - self.keep, 0)
        if not split:
            return chain.last(state)
        tape = _Stored()
        middle = integrate_on_tape(chain, state, tape, split)
        last = chain.last(middle, start=split)
        return guard(tape.reads, last) if split < len(chain) and tape.recorded else last


class _Stored(Tape):
    """The states before each step, and the random numbers."""

    gradient = "Checkpoint"

    def __init__(self) -> None:
        self.states: list[State] = []

    @property
    def recorded(self) -> bool:
        """Whether anything wants a gradient, so that there are steps to be rebuilt."""
        return bool(self.states)

    def record(self, chain: Chain, state: State, stop: int) -> State:
        self.random = RandomNumbers(chain, state)
        for reached in chain.walk(state, stop=stop):
            self.states.append(reached)
            self.random.remember()
        self.last = self.states.pop()
        return self.last

    def rebuild(self, chain: Chain, i: int) -> Rebuilt:
        before = make_leaves(self.states[i])
        with self.random.replay(i):
            after = chain.advance(i, before)
        ran = self.states[i + 1] if i + 1 < len(self.states) else self.last
        return Rebuilt(before, after, again=after, ran=ran)
