"""DDIM: Song, Meng & Ermon, "Denoising Diffusion Implicit Models", 2021, eq. 12 with no noise.

    x_s = alpha_s x0(x_t) + sigma_s eps(x_t)

It is Euler's method on dy/drho = eps with y = x / alpha, rho = sigma / alpha. Its usual
inversion asks the network at the cleaner end of the step, which is only nearly the same. The exact
one solves x_s = a x_t + b F(x_t) for x_t, by

    x_t = (x_s - b F(x_t)) / a

from x_t = x_s on, which comes nearer where the step is short (Pan, Gherardi, Xie & Huang,
"Effective Real Image Editing with Accelerated Iterative Diffusion Inversion", 2023, without their
acceleration).
"""

from __future__ import annotations

from dataclasses import dataclass

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.solvers.base import Solver, State
from chainrule.errors import UserError


@dataclass(frozen=True)
class DDIM(Solver):
    """First order, one network call a step.

    Args:
        solve: How many calls undo a step: 1 is the usual inversion, more come nearer to the noise
            that leads back.
    """

    solve: int = 1

    order = 1
    calls = 1
    reversible = False

    def __post_init__(self) -> None:
        if self.solve < 1:
            raise UserError(f"DDIM cannot undo a step in {self.solve} calls", "choose 1 or more")

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        x0, eps = denoiser(state[0], t)
        return (denoiser.schedule.mix(x0, eps, s),)

    def inverse(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        if self.solve == 1:
            return super().inverse(denoiser, state, k, t, s)
        (x_s,) = (x_t,) = state
        a, b = denoiser.parameterization.coefficients(denoiser.schedule, t, s)
        for _ in range(self.solve):
            x_t = ((x_s - b * denoiser.output(x_t, t)) / a).to(x_s.dtype)
        return (x_t,)
