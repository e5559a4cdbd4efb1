"""Classifier-free guidance: Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022, eq. 6.

    eps = eps(x, negative) + w (eps(x, c) - eps(x, negative))

in the convention of diffusers: w = 1 is no guidance. The negative prompt is the empty one
unless the user names what the image should not be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import (
    Conditioned,
    Conditioning,
    Prediction,
    WrappedDenoiser,
    repeat,
)


@dataclass(frozen=True, eq=False)
class ClassifierFree(WrappedDenoiser):
    """One network call of twice the batch for each prediction.

    Args:
        denoiser: The network told the prompt.
        negative: The conditioning of the negative prompt.
        guidance_scale: w.
    """

    denoiser: Conditioned
    negative: Conditioning
    guidance_scale: float

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (*self.denoiser.inputs, *(value for value in self.negative if value.requires_grad))

    def __call__(self, x: Tensor, t: float) -> Prediction:
        both = self._pair(len(x))(torch.cat([x, x]), t)
        halves = zip(*(part.chunk(2) for part in both), strict=True)
        negative, positive = (Prediction(*parts) for parts in halves)
        return negative.combine(positive, lambda n, p: n + self.guidance_scale * (p - n))

    def _pair(self, batch: int) -> Conditioned:
        negative = repeat(self.negative, batch)
        positive = repeat(self.denoiser.conditioning, batch)
        both = tuple(torch.cat(pair) for pair in zip(negative, positive, strict=True))
        return Conditioned(self.denoiser.network, both)
