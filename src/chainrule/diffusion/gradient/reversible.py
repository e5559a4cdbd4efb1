"""Reversible differentiation: store next to nothing, and run the solver backwards.

The idea of Gomez et al., "The Reversible Residual Network", 2017, that DOODL builds on.
Undoing a step evaluates the network at the very points at which the step did
(`Solver.reversible`), so the calls that rebuild the state serve the backward pass too: a
recorder keeps their graphs, and the step is then replayed on top of them.

Undoing EDICT's mixing divides the difference of the pair by p^2 at every step, and its
rounding error with it: by 2e6 in 100 steps at p = 0.93. So a state is kept now and then,
from which the way back starts afresh.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser
from chainrule.diffusion.gradient.base import Chain, Gradient, drop_repeats, make_leaves
from chainrule.diffusion.gradient.replay import RandomNumbers
from chainrule.diffusion.gradient.tape import Rebuilt, Tape, integrate_on_tape
from chainrule.diffusion.solvers.base import State
from chainrule.errors import UserError


@dataclass(frozen=True)
class Reversible(Gradient):
    """The exact gradient of a reversible solver.

    Rounding grows on the way back from one kept state to the one before: keep latents in float32 or
    float64 whatever the network's dtype. With a network in half precision, `Checkpoint` is exact
    where this rounds again.

    Args:
        every: Memory grows by a state for so many steps only.
    """

    every: int = 20

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(
                f"Reversible cannot keep a state every {self.every} steps",
                "choose 1 or more",
                "every",
            )

    def integrate(self, chain: Chain, state: State) -> State:
        if not chain.solver.reversible:
            raise UserError(
                f"Reversible cannot differentiate {type(chain.solver).__name__}, which cannot be "
                "inverted exactly",
                "use EDICT(), or Checkpoint() for the gradient",
            )
        return integrate_on_tape(chain, state, _Inverted(self.every), len(chain))


class _Inverted(Tape):
    """The last state and those after each `every` steps, and the random numbers of each call.

    The other states are rebuilt in turn, each on a copy.
    """

    gradient = "Reversible"

    def __init__(self, every: int) -> None:
        self.every = every
        self.current: State = ()

    def record(self, chain: Chain, state: State, stop: int) -> State:
        self.kept: dict[int, State] = {}
        self.random, self.stop = RandomNumbers(chain, state), stop
        watched = chain.replace_denoiser(_Watched(chain.denoiser, self.random))
        for i, last in enumerate(watched.walk(state, stop=stop)):
            if i in (0, stop) or i % self.every == 0:
                self.kept[i] = last
        return last

    def rebuild(self, chain: Chain, i: int) -> Rebuilt:
        if i + 1 == self.stop:  # the way back begins, perhaps once more
            self.left = len(self.random)
        after = self.kept.get(i + 1, self.current)
        recorder = _Recorder(chain.denoiser, self.random, self.left)
        undone = chain.replace_denoiser(recorder).retreat(i, after)
        self.left -= len(recorder.calls)
        self.current = tuple(tensor.detach() for tensor in undone)
        before = make_leaves(self.current)
        leaves = tuple(leaf for leaf, _ in recorder.calls)
        apart = tuple(part for _, prediction in recorder.calls for part in prediction)
        replayed = chain.replace_denoiser(_Replayer(recorder)).advance(i, before)
        return Rebuilt(before, replayed, apart, leaves, self.current, self.kept.get(i, ()))


@dataclass
class _Watched(WrappedDenoiser):
    """Remembers where the random numbers of each call begin."""

    denoiser: Denoiser
    random: RandomNumbers

    def __call__(self, x: Tensor, t: float) -> Prediction:
        self.random.remember()
        return self.denoiser(x, t)


@dataclass
class _Recorder(WrappedDenoiser):
    """Answers without a graph, and keeps the graph of each answer.

    Its calls are those of a step in the opposite order: the first one has the random numbers of the
    last of the `left` moments.
    """

    denoiser: Denoiser
    random: RandomNumbers
    left: int
    calls: list[tuple[Tensor, Prediction]] = field(default_factory=list)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        (leaf,) = make_leaves((x,))
        with self.random.replay(self.left - 1 - len(self.calls)):
            prediction = self.denoiser(leaf, t)
        self.calls.append((leaf, prediction))
        return Prediction(prediction.x0.detach(), prediction.eps.detach())


@dataclass
class _Replayer(WrappedDenoiser):
    """Answers a step's calls with what its inverse recorded, last call first."""

    denoiser: _Recorder

    def __call__(self, x: Tensor, t: float) -> Prediction:
        leaf, prediction = self.denoiser.calls.pop()
        return Prediction(*_Graft.apply(x, leaf, prediction, *drop_repeats(self.inputs)))


class _Graft(torch.autograd.Function):
    """Puts a recorded network call under the tensor `x` whose value it was made for."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, leaf: Tensor, prediction: Prediction, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.leaf, ctx.prediction, ctx.inputs = leaf, prediction, inputs
        return prediction.x0.detach(), prediction.eps.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_x, *of_inputs = torch.autograd.grad(
            tuple(ctx.prediction), (ctx.leaf, *ctx.inputs), gradients, allow_unused=True
        )
        return (of_x, None, None, *of_inputs)
