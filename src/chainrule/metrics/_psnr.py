"""Peak signal-to-noise ratio."""

from __future__ import annotations

from torch import Tensor


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """-10 log10 of the mean square difference.

    Args:
        images: (B, 3, H, W) in [0, 1].
        reference: What they are compared with, in the same shape.

    Returns:
        (B,), in decibels, at most 120.
    """
    error = (images - reference).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=1e-12).log10()
