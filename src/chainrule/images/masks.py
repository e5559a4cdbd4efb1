"""Masks: which pixels of a picture may change."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from PIL import Image, ImageColor
from torch import Tensor
from torch.nn import functional

from chainrule.errors import UserError
from chainrule.images.reading import Source, read_picture

NEAR = 0.25
"""How far a pixel may be from a grey to be of it, in RGB of [0, 1]."""

HUE = math.radians(20)
"""How far a pixel's hue may be from a colour's to be of it, in radians."""

CHROMA = 0.15
"""How colourful a colour is at least, and a pixel that is of it."""


def load_mask(path: str | Path, original: tuple[int, int], size: tuple[int, ...]) -> Tensor:
    """The mask in a file, white where a picture may change.

    Args:
        path: A picture as large as the one that it is for.
        original: The height and width of that picture, in pixels.
        size: The height and width H, W of the images that are made of it, in pixels.

    Returns:
        The mask (1, 1, H, W), 1 where the images may change and 0 elsewhere.

    Raises:
        UserError: There is no such picture, or it is not as large as the other.
    """
    return shrink_mask(read_mask(path, original), size)


def read_mask(source: Source, original: tuple[int, int]) -> Tensor:
    """The mask in a file at its own size, white where a picture may change.

    Args:
        source: A picture as large as the one that it is for: a file, or one of Pillow's.
        original: The height and width h, w of that picture, in pixels.

    Returns:
        The mask (1, 1, h, w), from 0 (black) to 1 (white).

    Raises:
        UserError: There is no such picture, or it is not as large as the other.
    """
    try:
        picture = read_picture(source)
        if len(picture) == 4:
            warnings.warn(
                "the mask is transparent in parts: these stay as they are, like black", stacklevel=2
            )
            picture = picture[3:] * picture[:3]
        mask = picture.mean(dim=0)
    except UserError as error:
        raise UserError(error.cause, error.cure, "mask") from error
    if tuple(mask.shape) != original:
        (h, w), (height, width) = mask.shape, original
        name = "the mask" if isinstance(source, Image.Image) else f"the mask {source}"
        raise UserError(
            f"{name} is {w}x{h} pixels and the picture {width}x{height}",
            "they must be the same size",
            "mask",
        )
    return mask[None, None]


def shrink_mask(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """A mask at the size of images: 1 where more than half of it is white.

    Args:
        mask: (N, 1, h, w) in [0, 1].
        size: The height and width H, W of the images, in pixels.

    Returns:
        (N, 1, H, W) of 0 and 1.
    """
    return (functional.interpolate(mask, size, mode="area") > 0.5).float()


def colour_mask(images: Tensor, colour: str) -> Tensor:
    """Where images are of a colour, and a little around.

    Args:
        images: Images (B, 3, H, W) in [0, 1].
        colour: The colour as CSS writes it: "red", "#de2626".

    Returns:
        The masks (B, 1, H, W), 1 where an image is of that colour and 0 elsewhere.

    Raises:
        UserError: There is no such colour.
    """
    try:
        rgb = ImageColor.getrgb(colour)[:3]
    except ValueError:
        raise UserError(
            f"{colour!r} is not a colour", "name one (red) or write it (#de2626)", "mask"
        ) from None
    wanted = images.new_tensor(rgb)[None, :, None, None] / 255
    if _chroma(wanted) > CHROMA:
        turn = _hue(images) - _hue(wanted)
        same_hue = torch.atan2(turn.sin(), turn.cos()).abs() < HUE
        near = same_hue & (_chroma(images) > CHROMA)
    else:
        near = (images - wanted).norm(dim=1, keepdim=True) < NEAR
    around = 2 * (min(images.shape[-2:]) // 32) + 1
    return functional.max_pool2d(near.to(images), around, stride=1, padding=around // 2)


def _chroma(images: Tensor) -> Tensor:
    """How far from grey, (B, 1, H, W)."""
    return images.amax(dim=1, keepdim=True) - images.amin(dim=1, keepdim=True)


def _hue(images: Tensor) -> Tensor:
    """The angle of the colour, in radians, (B, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
