"""Peak signal-to-noise ratio."""

from __future__ import annotations

from torch import Tensor


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """-10 log10 of the mean square difference of images (B, 3, H, W) in [0, 1], in decibels, (B,)."""
    return -10 * (images - reference).square().mean(dim=(1, 2, 3)).clamp(min=1e-12).log10()
