"""DDIM: Song, Meng & Ermon, "Denoising Diffusion Implicit Models", 2021, eq. 12 with no noise.

    x_s = alpha_s x0(x_t) + sigma_s eps(x_t)

It is Euler's method on dy/drho = eps with y = x / alpha, rho = sigma / alpha.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.solvers.base import State, Solver


@dataclass(frozen=True)
class DDIM(Solver):
    """First order, one network call a step."""

    order = 1
    calls = 1
    reversible = False

    def init(self, x: Tensor) -> State:
        return (x,)

    def step(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        return (_move(denoiser, state[0], t, s),)

    def inverse(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        """The usual DDIM inversion: the network is asked at the cleaner end, which is only nearly the same."""
        return (_move(denoiser, state[0], max(s, 0.0), t),)

    def final(self, state: State) -> Tensor:
        return state[0]


def _move(denoiser: Denoiser, x: Tensor, t: float, s: float) -> Tensor:
    x0, eps = denoiser(x, t)
    return denoiser.schedule.alpha(s) * x0 + denoiser.schedule.sigma(s) * eps
