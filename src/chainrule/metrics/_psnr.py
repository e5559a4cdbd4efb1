"""Peak signal-to-noise ratio."""

from __future__ import annotations

from torch import Tensor

from chainrule.errors import UserError
from chainrule.metrics.base import check_finite


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """-10 log10 of the mean square difference.

    Args:
        images: (B, 3, H, W) in [0, 1].
        reference: What they are compared with, in the same shape.

    Returns:
        (B,), in decibels, at most 120.

    Raises:
        UserError: They are not batches of images of one shape, or are not finite.
    """
    for each in (images, reference):
        check_finite(each, "images", 4)
    if images.shape != reference.shape:
        raise UserError(
            f"images of shape {tuple(images.shape)} cannot be compared with "
            f"{tuple(reference.shape)}",
            "make them the same size, with chainrule.images.resize",
            "reference",
        )
    error = (images - reference).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=1e-12).log10()
