"""What a solver is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.errors import UserError
from chainrule.diffusion.ode import ODE, Coordinates, ProbabilityFlow, natural

State = tuple[Tensor, ...]
"""All that a solver carries from step to step: latents (B, C, h, w), and what a multistep solver remembers. No state
hides in a solver."""


NOT_FINITE = (
    "the latents are no longer finite {where}: use float32 or bfloat16 for the network, a lower guidance scale or more "
    "steps"
)


def finite(state: Sequence[Tensor]) -> bool:
    """Whether every number of a state is."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in state)


class Solver(ABC):
    """One solver. `order` is its order of convergence; `calls` its network calls a step, once it is under way.

    `reversible` says that `inverse` undoes `solver` exactly, up to rounding, and evaluates the network at the very points
    at which `solver` did, in the opposite order. `chainrule.diffusion.gradient.Reversible` rests on both. One that `rises` goes to
    noisier times as well, by adding noise.
    """

    order: int
    calls: int
    reversible: bool
    rises: bool = False

    @abstractmethod
    def init(self, x: Tensor) -> State:
        """The state that starts (or, going backwards, ends) a chain at `x` (B, C, h, w)."""

    @abstractmethod
    def step(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        """The state at `s`, given the state at `t` > `s`."""

    @abstractmethod
    def inverse(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        """The state at `t`, given the state at `s` < `t`; exact if `reversible`, an approximation otherwise."""

    @abstractmethod
    def final(self, state: State) -> Tensor:
        """The latent (B, C, h, w) that a state stands for."""

    def begin(self, latents: State) -> State:
        """The state that starts a chain at `latents`, as many as it carries (`latents`; EDICT: the pair)."""
        return latents

    def latents(self, state: State) -> State:
        """Those of a state's tensors that stand for images, each (B, C, h, w)."""
        return (state[0],)

    def moved(self, state: State, latents: State) -> State:
        """`state` with other `latents`."""
        return (*latents, *state[len(latents) :])

    def select(self, rows: Sequence[int]) -> Solver:
        """The same for some of the images of a batch: what is random belongs to an image."""
        return self

    def check(self, state: State) -> None:  # noqa: B027 - most solvers have nothing to warn of
        """Warn, at the end of a chain, if `state` shows that the chain cannot be trusted."""


class WrappedSolver(Solver):
    """A step made of another one, `solver`, as a guide is made of a denoiser: the same unless it says otherwise.

    It cannot be undone: what it does besides is not in the solver's inverse.
    """

    solver: Solver
    reversible = False

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.solver.order

    @property
    def calls(self) -> int:  # type: ignore[override]
        return self.solver.calls

    @property
    def rises(self) -> bool:  # type: ignore[override]
        return self.solver.rises

    def init(self, x: Tensor) -> State:
        return self.begin(self.solver.latents(self.solver.init(x)))

    def begin(self, latents: State) -> State:
        return self.solver.begin(latents)

    def latents(self, state: State) -> State:
        return self.solver.latents(state)

    def moved(self, state: State, latents: State) -> State:
        return self.solver.moved(state, latents)

    def select(self, rows: Sequence[int]) -> Solver:
        return replace(self, solver=self.solver.select(rows))  # type: ignore[type-var]

    def inverse(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        raise UserError(
            f"a {type(self.solver).__name__} chain that is constrained cannot be undone: invert without the constraint"
        )

    def final(self, state: State) -> Tensor:
        return self.latents(state)[0]

    def check(self, state: State) -> None:
        self.solver.check(state)


class ODESolver(Solver):
    """A Solver that solves any ODE dy/du = f(y, u), here the probability-flow ODE, in `coordinates` (None: the natural
    ones, `chainrule.diffusion.ode.natural`). Its state is the latent, and what it remembers of earlier steps.
    """

    coordinates: Coordinates | None
    reversible = False

    @abstractmethod
    def integrate(self, ode: ODE, y: Tensor, memory: State, t: float, s: float) -> tuple[Tensor, State]:
        """(y at time `s`, what to remember), given y at time `t` and what was remembered (nothing, at first)."""

    def flow(self, denoiser: Denoiser) -> ProbabilityFlow:
        """The ODE of `denoiser` in this solver's coordinates."""
        return ProbabilityFlow(denoiser, self.coordinates or natural(denoiser))

    def init(self, x: Tensor) -> State:
        return (x,)

    def step(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        ode = self.flow(denoiser)
        x, *memory = state
        y, remembered = self.integrate(ode, ode.enter(x, t), tuple(memory), t, s)
        return (ode.leave(y, s), *remembered)

    def inverse(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        """The same method, the other way."""
        return self.step(denoiser, state, max(s, 0.0), t)

    def final(self, state: State) -> Tensor:
        return state[0]


def moved(y: Tensor, h: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """y + h (the weighted sum of the slopes)."""
    for weight, slope in zip(weights, slopes, strict=True):
        y = y + (h * weight) * slope if weight else y
    return y
