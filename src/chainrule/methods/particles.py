"""Feynman-Kac steering: Singhal et al., "A General Framework for Inference-time Scaling and
Steering of Diffusion Models", 2025, algorithm 1.

k particles of each image walk a DDPM chain. Where their guesses x0(x_t) are looked at, they are
drawn again at odds of the potential, r being the reward (the lower a loss, the higher it is):

    G_t = exp(lambda (max_{s >= t} r(x0(x_s)) - max_{s > t} r(x0(x_s))))    at first exp(lambda r)

The product of a particle's potentials is exp(lambda max r), whatever the number of looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from chainrule.diffusion.constraints import constrain
from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser
from chainrule.diffusion.gradient.base import Chain, OnStep
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.methods.base import Task

NOISE, RESAMPLING = "search/particles", "search/resampling"
"""The streams of DDPM's noise, and of who goes on."""


class Walked(NamedTuple):
    """A particle of each image, after some steps.

    Args:
        latents: (B, C, h, w), where it is.
        guess: (B, C, h, w), x0 of the last place but this one: looking costs no pass.
    """

    latents: Tensor
    guess: Tensor


def walk_particles(
    task: Task, particles: Tensor, steps: int, part: tuple[int, int], on_step: OnStep | None = None
) -> Iterator[Walked]:
    """Each of the particles after some steps of its chain, one after another.

    Args:
        task: Whose images.
        particles: (k, B, C, h, w), where they are.
        steps: Of the whole chain.
        part: The first step, and the one before which to stop.
        on_step: Told after each step, of those of all particles.
    """
    times, (first, last) = tuple(task.model.schedule.times(steps).tolist()), part
    parts = task.split(task.plan.batch_size)
    chains = len(particles) * len(parts)

    def tell(done: int) -> None:
        if on_step is not None:
            on_step(chains * first + done, chains * steps)

    done = 0
    for j, x in enumerate(particles):
        solver, ends = DDPM(task.noise.stream(NOISE), first=j * steps), []
        for rows, one in parts:
            walker, heard = constrain(solver.select(rows), one.constraints), _Heard(one.denoiser)
            state = walker.start((x[rows],))
            for i in range(first, last):
                state = Chain(heard, times, walker).advance(i, state)
                tell(done := done + 1)
            ends.append(Walked(walker.final(state), heard.guesses[0]))
        yield Walked(*map(torch.cat, zip(*ends, strict=True)))


def weigh(lows: Tensor, losses: Tensor, sharpness: float) -> Tensor:
    """The weights of an image's particles, (k, B) in float64: each image's sum to 1.

    Args:
        lows: (k, B), the lowest loss of each before this look; infinity before the first.
        losses: (k, B), at this look.
        sharpness: lambda.
    """
    risen = lows.where(lows.isfinite(), 0.0) - torch.minimum(lows, losses)
    return (sharpness * risen.to("cpu", torch.float64)).softmax(dim=0)


def resample(weights: Tensor, start: Tensor) -> Tensor:
    """Which particles go on, (k, B): of each, its share of k rounded up or down.

    Systematic resampling: the k places (i + u) / k are looked up in the sums of the weights.

    Args:
        weights: (k, B), each image's sum to 1.
        start: (B,), u in [0, 1).
    """
    count = len(weights)
    places = (torch.arange(count)[:, None] + start.to(weights)) / count
    found = torch.searchsorted(weights.cumsum(dim=0).T.contiguous(), places.T.contiguous())
    return found.clamp(max=count - 1).T


@dataclass(frozen=True, eq=False)
class _Heard(WrappedDenoiser):
    """A denoiser whose last guess of the image is remembered."""

    denoiser: Denoiser
    guesses: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        said = self.denoiser(x, t)
        self.guesses[:] = [said.x0]
        return said
