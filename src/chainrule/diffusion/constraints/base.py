"""What a constraint is: something that holds for the latents between two steps of any solver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from torch import Tensor

from chainrule.diffusion.batch import PerImage
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.schedule import Schedule
from chainrule.diffusion.solvers.base import Solver, State, WrappedSolver
from chainrule.noise import Stream


class Constraint(PerImage, ABC):
    """A dataclass: `on(solver)` is a solver that keeps to it."""

    @abstractmethod
    def on(self, solver: Solver) -> Solver:
        """`solver`, constrained."""


def constrain(solver: Solver, constraints: Sequence[Constraint]) -> Solver:
    """A solver that keeps to all constraints.

    Args:
        solver: What makes the steps.
        constraints: The first one is innermost.
    """
    return reduce(lambda inner, constraint: constraint.on(inner), constraints, solver)


class StepConstraint(Constraint):
    """A constraint that changes the latents after each step.

    After a step to a noisier time (RePaint's jumps) it changes nothing.
    """

    @abstractmethod
    def __call__(self, x: Tensor, s: float, k: int) -> Tensor:
        """What the latents after a step become.

        Args:
            x: (B, C, h, w) at time `s`.
            s: The time at the end of the step.
            k: The number of the step in its chain, for randomness that is replayed.

        Returns:
            (B, C, h, w) at time `s`.
        """

    def on(self, solver: Solver) -> Solver:
        return _Constrained(solver, self)


@dataclass(frozen=True, eq=False)
class _Constrained(WrappedSolver):
    """A solver whose latents go through a constraint after each step."""

    solver: Solver
    constraint: StepConstraint

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        after = self.solver.step(denoiser, state, k, t, s)
        if s > t:
            return after
        latents = tuple(self.constraint(x, s, k) for x in self.latents(after))
        return self.replace_latents(after, latents)


class Reference(PerImage, ABC):
    """A dataclass: a picture's latents at every noise level."""

    @abstractmethod
    def at(self, s: float, k: int) -> Tensor:
        """(B, C, h, w) at time `s`, after step number `k`."""


@dataclass(frozen=True, eq=False)
class NoisedReference(Reference):
    """x_s = alpha_s x_0 + sigma_s z with fresh noise z after each step; at the end, x_0 itself.

    Args:
        schedule: What times mean.
        x_0: The picture's latents (B, C, h, w).
        noise: A stream with a seed for each image; step k takes its draw k.
    """

    schedule: Schedule
    x_0: Tensor
    noise: Stream

    def at(self, s: float, k: int) -> Tensor:
        if s < 0:
            return self.x_0
        z = self.noise.normal(k, self.x_0.shape[1:]).to(self.x_0)
        return self.schedule.mix(self.x_0, z, s)


@dataclass(frozen=True, eq=False)
class VisitedReference(Reference):
    """The latents that an inversion came through.

    Args:
        latents: (B, C, h, w) of each time, as `chainrule.diffusion.sampling.trajectory` has them.
    """

    latents: Mapping[float, Tensor]

    def at(self, s: float, k: int) -> Tensor:
        return self.latents[s]
