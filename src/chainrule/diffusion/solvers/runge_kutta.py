"""Explicit Runge-Kutta methods (Butcher 1964): several slopes within a step.

k_i = f(y + h sum_j a_ij k_j, u + c_i h),    y(u + h) = y + h sum_i b_i k_i
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from chainrule.diffusion.ode import ODE, Coordinates
from chainrule.diffusion.solvers.base import ODESolver, State, add_slopes

Row = tuple[float, ...]


class RungeKutta(ODESolver):
    """A method with coefficients."""

    @property
    @abstractmethod
    def tableau(self) -> tuple[tuple[Row, ...], Row, Row]:
        """(a, b, c), where row i of a has i numbers."""

    def integrate(
        self, ode: ODE, y: Tensor, memory: State, t: float, s: float
    ) -> tuple[Tensor, State]:
        a, b, c = self.tableau
        u, h = ode.clock(t), ode.clock(s) - ode.clock(t)
        times = {0.0: t, 1.0: s}
        slopes: list[Tensor] = []
        for row, node in zip(a, c, strict=True):
            time = times[node] if node in times else ode.time(u + node * h)
            slopes.append(ode.slope(add_slopes(y, h, row, slopes), time))
        return add_slopes(y, h, b, slopes), ()


@dataclass(frozen=True)
class Euler(RungeKutta):
    """First order, one network call a step. In coordinates without a linear part it is DDIM."""

    coordinates: Coordinates | None = None
    order = 1
    calls = 1
    tableau = ((),), (1.0,), (0.0,)


@dataclass(frozen=True)
class Heun(RungeKutta):
    """Second order, two network calls a step."""

    coordinates: Coordinates | None = None
    order = 2
    calls = 2
    tableau = ((), (1.0,)), (1 / 2, 1 / 2), (0.0, 1.0)


@dataclass(frozen=True)
class RK3(RungeKutta):
    """Kutta's third order, three network calls a step."""

    coordinates: Coordinates | None = None
    order = 3
    calls = 3
    tableau = ((), (1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6), (0.0, 1 / 2, 1.0)


@dataclass(frozen=True)
class RK4(RungeKutta):
    """The classical fourth order, four network calls a step."""

    coordinates: Coordinates | None = None
    order = 4
    calls = 4
    tableau = (
        ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
        (0.0, 1 / 2, 1 / 2, 1.0),
    )
