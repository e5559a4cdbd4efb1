"""An edit that was made at a model's size, put back into the picture at its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LARGE = 0.2
"""The change, in [0, 1], by which a picture's own fine details have faded to 1/e."""


def put_back(edit: Tensor, seen: Tensor, full: Tensor, mask: Tensor | None = None) -> Tensor:
    """What was changed in a small copy of a picture, changed in the picture itself.

        full + d - (1 - exp(-(|d| / 0.2)^2)) (full - up(seen)),    d = up(edit - seen)

    with up() bicubic. The details that the model never saw, full - up(seen), stay where nothing
    changed and fade where much did: without that the edges of what is gone would shine through.

    Limits: what is new is as fine as the model drew it. A fine texture is lost where its colour
    changes much.

    Args:
        edit: The edited images (B, 3, h, w) in [0, 1].
        seen: What they would be if nothing were changed: the picture at their size, (B or 1, 3, h,
            w), best as the model that made them gives it back.
        full: The picture (B or 1, 3, H, W) in [0, 1].
        mask: Where it may change, (B or 1, 1, H, W) in [0, 1]; None: everywhere.

    Returns:
        (B, 3, H, W) in [0, 1], of the picture's dtype and on its device. It is the picture bit for
        bit where the edit is what was seen and where the mask is 0; it is the edit if that has the
        picture's size.
    """
    size = full.shape[-2:]
    if edit.shape[-2:] == size:
        edit = edit.to(full)
        return edit if mask is None else mask * edit + (1 - mask) * full
    change = _enlarge((edit - seen).to(full), size)
    lost = 1 - torch.exp(-(change.abs().amax(dim=1, keepdim=True) / LARGE).square())
    change = change - lost * (full - _enlarge(seen.to(full), size))
    return (full + (change if mask is None else mask * change)).clamp(0, 1)


def restore_alpha(images: Tensor, picture: Tensor) -> Tensor:
    """Images that were made of a transparent picture on white, transparent again.

        c + (images - on_white) / alpha

    Args:
        images: (B, 3, H, W) in [0, 1], on white.
        picture: The picture (B or 1, 4, H, W): its colours c and its alpha.

    Returns:
        (B, 4, H, W) in [0, 1]: on white it looks like the images wherever its alpha allows that,
        and it is the picture bit for bit where they are the picture on white.
    """
    colours, alpha = picture[:, :3], picture[:, 3:]
    change = images - (alpha * colours + (1 - alpha))
    changed = (colours + change / alpha.clamp(min=1 / 255)).clamp(0, 1)
    changed = torch.where(alpha > 0, changed, colours)  # nobody sees it
    return torch.cat([changed, alpha.expand(len(images), -1, -1, -1)], dim=1)


def _enlarge(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Images or differences of images at another size."""
    return functional.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
