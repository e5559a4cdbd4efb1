"""What a constraint is: something constrain on the latent between two steps of any solver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.noise import Noise
from chainrule.diffusion.schedule import Schedule
from chainrule.diffusion.solvers.base import WrappedSolver, State, Solver


class Constraint(ABC):
    """`on(step)` is a solver that keeps to it."""

    @abstractmethod
    def on(self, solver: Solver) -> Solver:
        """`solver`, constrained."""

    @abstractmethod
    def select(self, rows: Sequence[int]) -> Constraint:
        """The same for some of the images of a batch."""


def constrain(solver: Solver, constraints: Sequence[Constraint]) -> Solver:
    """`solver` under all `constraints`, the first one innermost."""
    return reduce(lambda inner, constraint: constraint.on(inner), constraints, solver)


class StepConstraint(Constraint):
    """A constraint that changes the latents after each step: `(x (B, C, h, w), s, k) -> x`, all at time `s`.

    `k` counts the steps, for randomness that is replayed. To a noisier time (RePaint's jumps) nothing is constrain.
    """

    @abstractmethod
    def __call__(self, x: Tensor, s: float, k: int) -> Tensor:
        """What `x`, after step `k`, becomes."""

    def on(self, solver: Solver) -> Solver:
        return _Constrained(solver, self)


@dataclass(frozen=True, eq=False)
class _Constrained(WrappedSolver):
    """The state is the solver's, and how many steps it has made."""

    solver: Solver
    constraint: StepConstraint

    def begin(self, latents: State) -> State:
        return (*self.solver.begin(latents), torch.zeros((), dtype=torch.float64))

    def latents(self, state: State) -> State:
        return self.solver.latents(state[:-1])

    def moved(self, state: State, latents: State) -> State:
        return (*self.solver.moved(state[:-1], latents), state[-1])

    def select(self, rows: Sequence[int]) -> Solver:
        return self.constraint.select(rows).on(self.solver.select(rows))

    def step(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        *inner, count = state
        after = (*self.solver.step(denoiser, tuple(inner), t, s), count + 1)
        if s > t:
            return after
        return self.moved(after, tuple(self.constraint(x, s, int(count)) for x in self.latents(after)))

    def check(self, state: State) -> None:
        self.solver.check(state[:-1])


class Reference(ABC):
    """A picture's latents at every noise level."""

    @abstractmethod
    def at(self, s: float, k: int) -> Tensor:
        """(B, C, h, w) at time `s`, after step `k`."""

    @abstractmethod
    def select(self, rows: Sequence[int]) -> Reference:
        """Those of some of the images of a batch."""


@dataclass(frozen=True, eq=False)
class Noised(Reference):
    """x_s = alpha_s x_0 + sigma_s z with fresh noise z after each step, draw `first` + k; at the end, `x_0` itself."""

    schedule: Schedule
    x_0: Tensor
    noise: Noise
    first: int

    def at(self, s: float, k: int) -> Tensor:
        if s < 0:
            return self.x_0
        z = self.noise.normal(self.first + k, self.x_0.shape[1:]).to(self.x_0)
        return self.schedule.alpha(s) * self.x_0 + self.schedule.sigma(s) * z

    def select(self, rows: Sequence[int]) -> Noised:
        return replace(self, x_0=self.x_0[list(rows)], noise=self.noise.select(rows))


@dataclass(frozen=True, eq=False)
class Visited(Reference):
    """The latents that an inversion came through (`chainrule.diffusion.sampling.visited`)."""

    latents: Mapping[float, Tensor]

    def at(self, s: float, k: int) -> Tensor:
        return self.latents[s]

    def select(self, rows: Sequence[int]) -> Visited:
        return Visited({t: x[list(rows)] for t, x in self.latents.items()})
