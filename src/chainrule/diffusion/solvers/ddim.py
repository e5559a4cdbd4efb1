"""DDIM: Song, Meng & Ermon, "Denoising Diffusion Implicit Models", 2021, eq. 12 with no noise.

    x_s = alpha_s x0(x_t) + sigma_s eps(x_t)

It is Euler's method on dy/drho = eps with y = x / alpha, rho = sigma / alpha. Its usual
inversion asks the network at the cleaner end of the step, which is only nearly the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.solvers.base import Solver, State


@dataclass(frozen=True)
class DDIM(Solver):
    """First order, one network call a step."""

    order = 1
    calls = 1
    reversible = False

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        x0, eps = denoiser(state[0], t)
        return (denoiser.schedule.mix(x0, eps, s),)
