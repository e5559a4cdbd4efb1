"""What is known stays: Lugmayr et al., "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", 2022.

    x_s = m x_s + (1 - m) x_s^known        eq. 8

m is 1 where the picture may change. The same rule blends the background of Blended Diffusion (Avrahami et al. 2022,
algorithm 1), with fresh noise on the picture as here, and DiffEdit's, with the latents of its encoding: what is known
at s is a `Reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.diffusion.constraints.base import StepConstraint, Reference

KNOWN = 1 << 24
"""The first draw of the known region's noise."""


@dataclass(frozen=True, eq=False)
class Inpaint(StepConstraint):
    """`mask` (B, 1, h, w) in [0, 1] is 1 where the latents are free, 0 where they are those of the reference."""

    mask: Tensor
    known: Reference

    def __call__(self, x: Tensor, s: float, k: int) -> Tensor:
        mask = self.mask.to(x)
        return mask * x + (1 - mask) * self.known.at(s, k)

    def select(self, rows: Sequence[int]) -> Inpaint:
        return Inpaint(self.mask[list(rows)], self.known.select(rows))


def fill_in(images: Tensor, mask: Tensor) -> Tensor:
    """`images` (B, 3, H, W) with the colours around it grown into what a `mask` (B, 1, H, W) leaves free.

    An autoencoder sees a little beyond each cell: what is to go must not shine through into what is known.
    """
    known = (mask == 0).to(images)
    known = torch.where(known.sum(dim=(2, 3), keepdim=True) > 0, known, 1.0)  # of some, nothing is around
    grown = images * known
    while not known.all():
        ring, share = (functional.avg_pool2d(each, 3, stride=1, padding=1) for each in (grown, known))
        new = (known == 0) & (share > 0)
        grown = torch.where(new, ring / share.clamp(min=1e-3), grown)
        known = known + new.to(known)
    return grown


def mask_for_latents(mask: Tensor, like: Tensor) -> Tensor:
    """A `mask` of pixels (B, 1, H, W) for latents (B, C, h, w): free wherever one of its pixels is."""
    return functional.adaptive_max_pool2d(mask, like.shape[-2:])
