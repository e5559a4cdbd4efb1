"""The probability-flow ODE, in the coordinates in which it is solved.

    x_t = alpha x0 + sigma eps,    dx/dt = alpha'(t) x0 + sigma'(t) eps        AdjointDPM eq. 4

Divided by a scale and counted by another clock u, it has no linear part left, which a
solver would get wrong:

    y = x / alpha,             u = sigma / alpha,              dy/du = eps       eq. 19 (`Rho`)
    y = x / (alpha + sigma),   u = sigma / (alpha + sigma),    dy/du = eps - x0  (`Straight`)

The second divides by nothing that may be zero: flow matching starts where alpha = 0.
Euler's method is DDIM in both. Below the first timestep, where no network was trained,
dy/du is what it is at t = 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser, Epsilon, Prediction
from chainrule.diffusion.schedule import Schedule
from chainrule.errors import UserError


class ODE(ABC):
    """dy/du = slope(y, t), with a clock u(t)."""

    @abstractmethod
    def clock(self, t: float) -> float:
        """u at time `t`."""

    @abstractmethod
    def time(self, u: float) -> float:
        """The time at which the clock shows `u`."""

    @abstractmethod
    def slope(self, y: Tensor, t: float) -> Tensor:
        """dy/du at time `t`, in the shape of `y`."""


class Coordinates(ABC):
    """x = scale(t) y, and a clock u(t)."""

    @abstractmethod
    def scale(self, schedule: Schedule, t: float) -> float:
        """x / y at time `t`."""

    @abstractmethod
    def clock(self, schedule: Schedule, t: float) -> float:
        """u at time `t`."""

    @abstractmethod
    def time(self, schedule: Schedule, u: float) -> float:
        """The time, 0 or later, at which the clock shows `u`."""

    @abstractmethod
    def slope(self, schedule: Schedule, t: float, prediction: Prediction) -> Tensor:
        """dy/du (B, C, h, w).

        Args:
            schedule: What times mean.
            t: The time.
            prediction: What the network says at that time.
        """


@dataclass(frozen=True)
class Rho(Coordinates):
    """AdjointDPM's: y = x / alpha, u = sigma / alpha. Not for chains that start where alpha = 0."""

    def scale(self, schedule: Schedule, t: float) -> float:
        alpha = schedule.alpha(t).item()
        if alpha == 0.0:
            raise UserError(
                "this chain starts at pure noise, where x / alpha does not exist",
                "use Straight() instead",
            )
        return alpha

    def clock(self, schedule: Schedule, t: float) -> float:
        return schedule.sigma(t).item() / self.scale(schedule, t)

    def time(self, schedule: Schedule, u: float) -> float:
        return schedule.time(u)

    def slope(self, schedule: Schedule, t: float, prediction: Prediction) -> Tensor:
        return prediction.eps


@dataclass(frozen=True)
class Straight(Coordinates):
    """Those of flow matching, for any schedule: y = (1 - u) x0 + u eps."""

    def scale(self, schedule: Schedule, t: float) -> float:
        return (schedule.alpha(t) + schedule.sigma(t)).item()

    def clock(self, schedule: Schedule, t: float) -> float:
        return schedule.sigma(t).item() / self.scale(schedule, t)

    def time(self, schedule: Schedule, u: float) -> float:
        return schedule.time(u / (1.0 - u) if u < 1.0 else math.inf)

    def slope(self, schedule: Schedule, t: float, prediction: Prediction) -> Tensor:
        return prediction.eps - prediction.x0


@dataclass(frozen=True)
class Original(Coordinates):
    """x and t themselves, linear part and all (eq. 4). It ends at t = 0.

    What the others are measured against.
    """

    def scale(self, schedule: Schedule, t: float) -> float:
        return 1.0

    def clock(self, schedule: Schedule, t: float) -> float:
        return schedule.network_time(t)

    def time(self, schedule: Schedule, u: float) -> float:
        return u

    def slope(self, schedule: Schedule, t: float, prediction: Prediction) -> Tensor:
        # the table's derivative, over one timestep
        early, late = max(t - 0.5, 0.0), min(t + 0.5, schedule.last)
        alpha, sigma = (
            ((value(late) - value(early)) / (late - early)).item()
            for value in (schedule.alpha, schedule.sigma)
        )
        return alpha * prediction.x0 + sigma * prediction.eps


def choose_coordinates(denoiser: Denoiser) -> Coordinates:
    """Those in which dy/du is what the network was trained to say.

    `Rho` for noise, `Straight` for velocities.
    """
    return Rho() if isinstance(denoiser.parameterization, Epsilon) else Straight()


@dataclass(frozen=True, eq=False)
class ProbabilityFlow(ODE):
    """The ODE of a denoiser in some coordinates."""

    denoiser: Denoiser
    coordinates: Coordinates

    def enter(self, x: Tensor, t: float) -> Tensor:
        """y of `x` at time `t`."""
        return x / self.coordinates.scale(self.denoiser.schedule, t)

    def leave(self, y: Tensor, t: float) -> Tensor:
        """x of `y` at time `t`."""
        return y * self.coordinates.scale(self.denoiser.schedule, t)

    def clock(self, t: float) -> float:
        return self.coordinates.clock(self.denoiser.schedule, t)

    def time(self, u: float) -> float:
        return self.coordinates.time(self.denoiser.schedule, u)

    def slope(self, y: Tensor, t: float) -> Tensor:
        schedule = self.denoiser.schedule
        t = schedule.network_time(t)
        return self.coordinates.slope(schedule, t, self.denoiser(self.leave(y, t), t))
