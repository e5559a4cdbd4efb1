"""Explicit Adams-Bashforth methods: the slopes of earlier steps instead of more network calls.

    y(u + h) = y + integral from u to u + h of the polynomial through the last slopes

AdjointDPM section 3.4. Steps may differ in length. A method of order n needs n slopes; as
an error that is made once may be larger than one that is made at every step, n - 1 do, and
for those the first steps are Runge-Kutta's of order n - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chainrule.diffusion.ode import ODE, Coordinates
from chainrule.diffusion.solvers.base import ODESolver, State, add_slopes
from chainrule.diffusion.solvers.runge_kutta import RK3, Heun
from chainrule.errors import UserError


@dataclass(frozen=True)
class AdamsBashforth(ODESolver):
    """One network call a step; 1 call more in all at order 3, 4 more at order 4, to start with.

    What it remembers is (the clock at the last slopes (n,), the latest first; each slope).

    Args:
        order: 2, 3 or 4.
        coordinates: Those in which it solves; None: `choose_coordinates`.
    """

    order: int = 4
    coordinates: Coordinates | None = None
    calls = 1

    def __post_init__(self) -> None:
        if self.order not in (2, 3, 4):
            raise UserError(
                f"Adams-Bashforth is not of order {self.order} here",
                "choose order 2, 3 or 4",
                "order",
            )

    def integrate(
        self, ode: ODE, y: Tensor, memory: State, t: float, s: float
    ) -> tuple[Tensor, State]:
        u, h = ode.clock(t), ode.clock(s) - ode.clock(t)
        clocks, slopes = (memory[0].tolist(), memory[1:]) if memory else ([], ())
        # after a step of no length, or where a chain turns back, this place was seen before
        new = [i for i, clock in enumerate(clocks) if clock != u]
        clocks, slopes = [clocks[i] for i in new], tuple(slopes[i] for i in new)
        once = _Once(ode, t)
        clocks, slopes = [u, *clocks], (once.slope(y, t), *slopes)
        known = self.order - 1
        remembered = (torch.tensor(clocks[:known], dtype=torch.float64), *slopes[:known])
        if h == 0.0:
            return y, remembered
        if len(slopes) < known:
            start = RK3() if self.order == 4 else Heun()
            return start.integrate(once, y, (), t, s)[0], remembered
        weights = _weights([(clock - u) / h for clock in clocks])
        return add_slopes(y, h, weights, slopes), remembered


def _weights(nodes: list[float]) -> list[float]:
    """The integral from 0 to 1 of each polynomial that is 1 at one node and 0 at the others.

    >>> [round(weight, 3) for weight in _weights([0.0, -1.0])]
    [1.5, -0.5]
    """
    powers = np.arange(len(nodes))
    matrix = np.array(nodes)[None] ** powers[:, None]
    found: list[float] = np.linalg.solve(matrix, 1 / (powers + 1)).tolist()
    return found


@dataclass(eq=False)
class _Once(ODE):
    """An ODE that is asked for the slope at time `t`, where a step starts, once."""

    ode: ODE
    t: float
    first: Tensor | None = None

    def clock(self, t: float) -> float:
        return self.ode.clock(t)

    def time(self, u: float) -> float:
        return self.ode.time(u)

    def slope(self, y: Tensor, t: float) -> Tensor:
        if t != self.t:
            return self.ode.slope(y, t)
        if self.first is None:
            self.first = self.ode.slope(y, t)
        return self.first
