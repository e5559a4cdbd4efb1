"""DDPM: Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models", 2020, algorithm 2, in DDIM's notation.

    x_s = alpha_s x0(x_t) + sqrt(sigma_s^2 - c^2) eps(x_t) + c z        Song et al. 2021, eq. 12
    c = eta sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)   eq. 16

`eta` 1 is DDPM (the smaller of its two variances), 0 is DDIM. The noise z of the k-th step is replayable: it depends on
the image's seed and on k, which the state counts, so that gradients pass as through any other step. To a noisier time
it goes as the data do in training:

    x_s = a x_t + sqrt(sigma_s^2 - a^2 sigma_t^2) z,    a = alpha_s / alpha_t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.errors import UserError
from chainrule.noise import Noise
from chainrule.diffusion.schedule import Schedule
from chainrule.diffusion.solvers.base import State, Solver

STEPS = 1 << 23
"""The first draw of the noise between steps."""


@dataclass(frozen=True)
class DDPM(Solver):
    """One network call a step, none to a noisier time. `noise` has a seed for each image; `first` is its first draw."""

    noise: Noise
    eta: float = 1.0
    first: int = STEPS

    order = 1
    calls = 1
    reversible = False
    rises = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise UserError(f"eta is the share of DDPM's noise that is added, from 0 to 1, not {self.eta}")

    def init(self, x: Tensor) -> State:
        return self.begin((x,))

    def begin(self, latents: State) -> State:
        return (*latents, torch.zeros((), dtype=torch.float64))

    def select(self, rows: Sequence[int]) -> DDPM:
        return replace(self, noise=self.noise.select(rows))

    def step(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        x, count = state
        z = self.noise.normal(self.first + int(count), x.shape[1:]).to(x)
        schedule = denoiser.schedule
        if s > t:
            return (add_noise_between(schedule, x, z, t, s), count + 1)
        x0, eps = denoiser(x, t)
        variance = self.variance(schedule, t, s)
        towards = (schedule.sigma(s) ** 2 - variance).clamp(min=0).sqrt()
        return (schedule.alpha(s) * x0 + towards * eps + variance.sqrt() * z, count + 1)

    def inverse(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        raise UserError("DDPM adds noise, which cannot be undone: invert with EDICT() or DDIM()")

    def final(self, state: State) -> Tensor:
        return state[0]

    def variance(self, schedule: Schedule, t: float, s: float) -> Tensor:
        """c^2 of the step from `t` to `s` < `t`, a float64 scalar; to the image itself nothing is added."""
        if s < 0:
            return torch.zeros((), dtype=torch.float64)
        alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        return (self.eta * sigma_s) ** 2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)


def add_noise_between(schedule: Schedule, x: Tensor, z: Tensor, t: float, s: float) -> Tensor:
    """`x` at time `t`, with as much of the noise `z` as makes it one at the noisier time `s`."""
    a = schedule.alpha(s) / schedule.alpha(t)
    return a * x + (schedule.sigma(s) ** 2 - (a * schedule.sigma(t)) ** 2).sqrt() * z
