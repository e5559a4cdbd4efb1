"""Whether what someone gives in Python is images, or a mask: said in one sentence if not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chainrule.errors import UserError

SLACK = 1e-3
"""How far outside of [0, 1] values may be, by rounding."""


def require_images(images: Any, what: str = "the photos", field: str = "photo") -> None:
    """Raise UserError for what are no images (B, 3, H, W) in [0, 1].

    Args:
        images: What was given.
        what: What it is, for the message.
        field: The setting that is to blame.
    """
    cure = "give a tensor (B, 3, H, W) in [0, 1], for example load_picture(FILE)[None]"
    if not isinstance(images, Tensor):
        raise UserError(f"{what} are a {type(images).__name__}", cure, field)
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] != 3 or 0 in shape:
        last = "; here the colours are last" if shape[-1:] == (3,) and 0 not in shape else ""
        raise UserError(f"{what} are of shape {shape}", f"{cure}{last}", field)
    if not images.is_floating_point():
        raise UserError(f"{what} are of {_kind(images)}", f"{cure}; divide 0 to 255 by 255", field)
    low, high = _range(images)
    if not (low >= -SLACK and high <= 1 + SLACK):  # so that NaN is refused as well
        raise UserError(f"{what} have values from {low:g} to {high:g}", cure, field)


def require_mask(mask: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise UserError for what is no mask, from 0 to 1.

    Args:
        mask: What was given.
        shapes: The shapes that it may have, the usual one last.
    """
    found = tuple(mask.shape) if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
    if found not in shapes:
        raise UserError(f"the mask is {found}", f"make it {shapes[-1]}, like the photos", "mask")
    low, high = _range(mask)
    if not (mask.is_floating_point() or mask.dtype == torch.bool) or not (low >= 0 and high <= 1):
        raise UserError(
            f"the mask is of {_kind(mask)}, from {low:g} to {high:g}",
            "let it be 1 where the photos may change and 0 elsewhere, and not whole numbers",
            "mask",
        )


def _range(values: Tensor) -> tuple[float, float]:
    values = values.detach()
    values = values if values.is_floating_point() else values.float()
    return values.amin().item(), values.amax().item()


def _kind(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")
