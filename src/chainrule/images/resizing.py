"""Images at other sizes."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from chainrule.errors import UserError

NARROW = 4
"""How many times the area that it should have a picture may have: at least `multiple` a side."""


def fit(picture: Tensor, area: int, multiple: int) -> Tensor:
    """A picture at a size that a model takes; `restore_proportions` undoes the change of shape.

    Args:
        picture: The picture (3, h, w) in [0, 1].
        area: About how many pixels it should have.
        multiple: What both sides must be multiples of, in pixels.

    Returns:
        The picture (3, H, W), its proportions changed by no more than `multiple` asks for.

    Raises:
        UserError: The picture is so narrow that it would have several times that area.
    """
    height, width = picture.shape[-2:]
    scale = math.sqrt(area / (height * width))
    sides = tuple(max(1, round(scale * side / multiple)) * multiple for side in (height, width))
    if sides[0] * sides[1] > NARROW * area:
        raise UserError(
            f"{width}x{height} pixels are too narrow for a model whose images have about {area}",
            "crop the picture",
            "photo",
        )
    return resize(picture[None], sides)[0]


def crop(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of a picture, at a size.

    Args:
        picture: The picture (3, h, w) in [0, 1].
        size: The height and width that it should have, in pixels.

    Returns:
        (3, *size) in [0, 1], in the picture's own proportions.
    """
    height, width = picture.shape[-2:]
    share = min(height / size[0], width / size[1])
    h, w = (
        max(1, min(round(share * to), side)) for to, side in zip(size, (height, width), strict=True)
    )
    top, left = (height - h) // 2, (width - w) // 2
    return resize(picture[None, :, top : top + h, left : left + w], size)[0]


def restore_proportions(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images in the proportions that they should have, by shortening one side.

    Args:
        images: Images (B, 3, H, W) in [0, 1].
        size: A height and width of these proportions, in any unit.

    Returns:
        The images, no larger than they were.
    """
    (height, width), ratio = images.shape[-2:], size[0] / size[1]
    if height / width > ratio:
        return resize(images, (max(1, round(width * ratio)), width))
    return resize(images, (height, max(1, round(height / ratio))))


def resize(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Images at another size, bicubic.

    Args:
        images: Images (B, 3, H, W) in [0, 1].
        size: The height and width that they should have, in pixels.

    Returns:
        The images in [0, 1]; they themselves if they have that size.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    resized = functional.interpolate(
        images, size, mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(0, 1)


def resize_like(picture: Tensor, images: Tensor) -> Tensor:
    """A picture as large as images are, of their dtype and on their device, bilinear.

    Args:
        picture: One picture or several, (N, C, h, w).
        images: Images (B, C, H, W).

    Returns:
        The picture (N, C, H, W), differentiable.
    """
    picture = picture.to(images)
    if picture.shape[-2:] == images.shape[-2:]:
        return picture
    return functional.interpolate(
        picture, images.shape[-2:], mode="bilinear", antialias=True, align_corners=False
    )
