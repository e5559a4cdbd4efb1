"""DDPM: Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models", 2020, algorithm 2.

In DDIM's notation:

    x_s = alpha_s x0(x_t) + sqrt(sigma_s^2 - c^2) eps(x_t) + c z        Song et al. 2021, eq. 12
    c = eta sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)   eq. 16

`eta` 1 is DDPM (the smaller of its two variances), 0 is DDIM. The noise z of the k-th step is
replayable: it depends on the image's seed and on k, so that gradients pass as through any other
step; where c = 0, none is drawn. To a noisier time it goes as the data do in training:

    x_s = a x_t + sqrt(sigma_s^2 - a^2 sigma_t^2) z,    a = alpha_s / alpha_t
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.schedule import Schedule
from chainrule.diffusion.solvers.base import Solver, State
from chainrule.errors import UserError
from chainrule.noise import Stream


@dataclass(frozen=True)
class DDPM(Solver):
    """One network call a step, none to a noisier time.

    Args:
        noise: A stream with a seed for each image: `Noise(seeds).stream("ddpm")`.
        eta: The share of DDPM's noise that is added, from 0 to 1.
        first: Step k takes draw first + k of the stream.
        given: The noises z of the first steps, each (B, C, h, w), in the place of the stream's:
            gradients reach those that want one.
        below: The noisiest time from which noise is added; from noisier ones none is.
    """

    noise: Stream
    eta: float = 1.0
    first: int = 0
    given: tuple[Tensor, ...] = ()
    below: float = math.inf

    order = 1
    calls = 1
    reversible = False
    rises = True

    def __post_init__(self) -> None:
        if not isinstance(self.noise, Stream):  # a Noise would start with the starting noise again
            raise UserError(
                f"DDPM's noise is a stream of its own, not a {type(self.noise).__name__}",
                'give it noise.stream("ddpm")',
            )
        if not 0.0 <= self.eta <= 1.0:
            raise UserError(
                f"eta is the share of DDPM's noise that is added, not {self.eta}",
                "choose a number from 0 to 1",
                "eta",
            )

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(z for z in self.given if z.requires_grad)

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        (x,) = state
        schedule = denoiser.schedule
        if s > t:
            return (add_noise_between(schedule, x, self._draw(k, x), t, s),)
        x0, eps = denoiser(x, t)
        variance = self.variance(schedule, t, s)
        if variance == 0.0:  # DDIM's step, for which nothing is drawn
            return (schedule.mix(x0, eps, s),)
        z = self._draw(k, x)
        towards = (schedule.sigma(s) ** 2 - variance).clamp(min=0).sqrt()
        return (schedule.alpha(s) * x0 + towards * eps + variance.sqrt() * z,)

    def _draw(self, k: int, like: Tensor) -> Tensor:
        """The noise z of step `k`."""
        if k < len(self.given):
            return self.given[k].to(like)
        return self.noise.normal(self.first + k, like.shape[1:]).to(like)

    def inverse(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        raise UserError("DDPM adds noise, which cannot be undone", "invert with EDICT() or DDIM()")

    def variance(self, schedule: Schedule, t: float, s: float) -> Tensor:
        """c^2, a float64 scalar; to the image itself, and above `below`, nothing is added.

        Args:
            schedule: What times mean.
            t: The time at the start of the step.
            s: The time at its end, below `t`.
        """
        if s < 0 or t > self.below:
            return torch.zeros((), dtype=torch.float64)
        alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        return (self.eta * sigma_s) ** 2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)


def add_noise_between(schedule: Schedule, x: Tensor, z: Tensor, t: float, s: float) -> Tensor:
    """The latents at a noisier time, by as much noise as that takes.

    Args:
        schedule: What times mean.
        x: (B, C, h, w) at time `t`.
        z: The noise, as `x`.
        t: The time now.
        s: The noisier time.
    """
    a = schedule.alpha(s) / schedule.alpha(t)
    return a * x + (schedule.sigma(s) ** 2 - (a * schedule.sigma(t)) ** 2).sqrt() * z
