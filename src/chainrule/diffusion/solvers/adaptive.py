"""Adaptive steps: Dormand and Prince's method of order 5 with its own error estimate, by torchdiffeq.

StepConstraint two times of the chain it takes as many steps as the tolerances ask for. Chen, "torchdiffeq", 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.diffusion.ode import ODE, Coordinates
from chainrule.diffusion.solvers.base import NOT_FINITE, ODESolver, State


@dataclass(frozen=True)
class Adaptive(ODESolver):
    """Order 5, at least 13 network calls from one time to the next: a chain of few steps suits it, even of one.

    `rtol` and `atol` bound the error estimate of each inner step, relative to y and absolutely. The number of calls
    depends on the latents, and on the whole batch; how long the inner steps are is not differentiated, so a gradient
    is exact up to the tolerances.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    coordinates: Coordinates | None = None
    order = 5
    calls = 13

    def __post_init__(self) -> None:
        if min(self.rtol, self.atol) <= 0:
            raise UserError(f"the tolerances {self.rtol:g} and {self.atol:g} must be above 0")

    def integrate(self, ode: ODE, y: Tensor, memory: State, t: float, s: float) -> tuple[Tensor, State]:
        try:
            from torchdiffeq import odeint
        except ModuleNotFoundError:
            raise UserError("the adaptive solver needs torchdiffeq: pip install 'chainrule[ode]'") from None
        u, v = ode.clock(t), ode.clock(s)
        if u == v:
            return y, ()
        ends = torch.tensor([u, v], dtype=torch.float64, device=y.device)

        def slope(clock: Tensor, value: Tensor) -> Tensor:
            found = ode.slope(value, ode.time(clock.item()))
            if not torch.isfinite(found).all():
                raise UserError(NOT_FINITE.format(where=f"on the way from time {t:g} to {s:g}"))
            return found

        # torchdiffeq's own choice of the first step depends on y, in a way that would be differentiated by half
        options = {"first_step": abs(v - u) / 10, "step_t": ends[1:]}  # it ends there, without interpolation
        return odeint(slope, y, ends, rtol=self.rtol, atol=self.atol, method="dopri5", options=options)[-1], ()
