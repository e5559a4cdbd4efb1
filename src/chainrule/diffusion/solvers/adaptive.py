"""Adaptive steps: Dormand and Prince's method of order 5, by torchdiffeq (Chen 2018).

Between two times of the chain it takes as many steps as its own error estimate and the
tolerances ask for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.diffusion.ode import ODE, Coordinates
from chainrule.diffusion.solvers.base import ODESolver, State, not_finite
from chainrule.errors import UserError


@dataclass(frozen=True)
class Adaptive(ODESolver):
    """Order 5, at least 13 network calls from one time to the next: few steps suit it, even one.

    The number of calls depends on the latents, and on the whole batch. How long the inner steps are
    is not differentiated, so a gradient is exact up to the tolerances.

    Args:
        rtol: Bounds the error estimate of each inner step relative to y, above 0.
        atol: Bounds it absolutely, above 0.
        coordinates: Those in which it solves; None: `choose_coordinates`.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    coordinates: Coordinates | None = None
    order = 5
    calls = 13

    def __post_init__(self) -> None:
        if min(self.rtol, self.atol) <= 0:
            raise UserError(
                f"tolerances of {self.rtol:g} and {self.atol:g} are not possible",
                "both must be above 0",
                "rtol",
            )

    def integrate(
        self, ode: ODE, y: Tensor, memory: State, t: float, s: float
    ) -> tuple[Tensor, State]:
        try:
            from torchdiffeq import odeint
        except ModuleNotFoundError:
            raise UserError(
                "the adaptive solver needs torchdiffeq", "pip install 'chainrule[ode]'"
            ) from None
        u, v = ode.clock(t), ode.clock(s)
        if u == v:
            return y, ()
        ends = torch.tensor([u, v], dtype=torch.float64, device=y.device)

        def slope(clock: Tensor, value: Tensor) -> Tensor:
            found = ode.slope(value, ode.time(clock.item()))
            if not torch.isfinite(found).all():
                raise not_finite(f"on the way from time {t:g} to {s:g}")
            return found

        # torchdiffeq's own first step depends on y, in a way that would be differentiated by half;
        # "step_t": it ends there, without interpolation
        options = {"first_step": abs(v - u) / 10, "step_t": ends[1:]}
        tolerances = {"rtol": self.rtol, "atol": self.atol}
        return odeint(slope, y, ends, **tolerances, method="dopri5", options=options)[-1], ()
