"""Checkpointing: store the states, which are tiny, and rebuild one step's graph at a time.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, at the granularity that
fits a sampling chain: a latent is thousands of times smaller than the graph of the step
that made it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chainrule.diffusion.gradient.base import (
    Chain,
    Gradient,
    Rebuilt,
    Tape,
    integrate_on_tape,
    make_leaves,
)
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
        if split:
            state = integrate_on_tape(chain, state, _Stored(), split)
        return chain.last(state, start=split)


@dataclass
class _Stored(Tape):
    """The states before each step."""

    states: list[State] = field(default_factory=list)

    def record(self, chain: Chain, state: State, stop: int) -> State:
        *self.states, last = chain.walk(state, stop=stop)
        return last

    def rebuild(self, chain: Chain, i: int) -> Rebuilt:
        before = make_leaves(self.states[i])
        return Rebuilt(before, chain.advance(i, before))
