"""What is known stays: Lugmayr et al., "RePaint: Inpainting using DDPM", 2022.

    x_s = m x_s + (1 - m) x_s^known        eq. 8

m is 1 where the picture may change. The same rule blends the background of Blended
Diffusion (Avrahami et al. 2022, algorithm 1), with fresh noise on the picture as here, and
DiffEdit's, with the latents of its encoding: what is known at s is a `Reference`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.diffusion.constraints.base import Reference, StepConstraint


@dataclass(frozen=True, eq=False)
class Inpaint(StepConstraint):
    """Latents that are partly known.

    Args:
        mask: (B, 1, h, w) in [0, 1]: 1 where the latents are free, 0 where they are known.
        known: The latents there.
    """

    mask: Tensor
    known: Reference

    def __call__(self, x: Tensor, s: float, k: int) -> Tensor:
        mask = self.mask.to(x)
        return mask * x + (1 - mask) * self.known.at(s, k)


def fill_in(images: Tensor, mask: Tensor) -> Tensor:
    """The images with the colours around it grown into what a mask leaves free.

    An autoencoder sees a little beyond each cell: what is to go must not shine through into what
    is known.

    Args:
        images: (B, 3, H, W).
        mask: (B, 1, H, W), 0 where an image is known.

    Returns:
        (B, 3, H, W).
    """
    known = (mask == 0).to(images)
    nothing = known.sum(dim=(2, 3), keepdim=True) == 0
    known = torch.where(nothing, 1.0, known)  # around nothing there are no colours
    grown = images * known
    while not known.all():
        ring, share = (
            functional.avg_pool2d(each, 3, stride=1, padding=1) for each in (grown, known)
        )
        new = (known == 0) & (share > 0)
        grown = torch.where(new, ring / share.clamp(min=1e-3), grown)
        known = known + new.to(known)
    return grown


def mask_for_latents(mask: Tensor, like: Tensor) -> Tensor:
    """The mask of latents that is free wherever one of its pixels is.

    Args:
        mask: Of pixels (B, 1, H, W).
        like: The latents (B, C, h, w).

    Returns:
        (B, 1, h, w).
    """
    return functional.adaptive_max_pool2d(mask, like.shape[-2:])
