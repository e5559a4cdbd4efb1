"""Pictures in files, and pictures of Pillow, as tensors and back."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from chainrule.errors import UserError
from chainrule.images.opening import open_picture, require_size

_SAME = 2
"""By how many of 255 levels a profile may move a colour and still be taken for sRGB."""
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
"""What ICC calls the colours of Pillow's modes."""
Source = str | Path | Image.Image
"""A picture: a file of it, or one of Pillow's."""


def to_pil(image: Tensor) -> Image.Image:
    """An `image` (3, H, W) in [0, 1] as an RGB picture of 8 bits; (4, H, W): RGBA."""
    image = image.detach().float().cpu().clamp(0, 1)
    pixels = image.mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def from_pil(pictures: Sequence[Image.Image]) -> Tensor:
    """Opaque `pictures` of one size as images (N, 3, H, W) in [0, 1]."""
    pixels = np.stack([np.asarray(each.convert("RGB")) for each in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


def load_picture(source: Source) -> Tensor:
    """A picture, turned as its camera says, on white where it is transparent.

    A file of several pictures is taken for its first; colours of another profile become sRGB.

    Args:
        source: A file of a common format, of at most 120 million pixels ("~" is the home folder;
            HEIC needs pillow-heif), or a picture of Pillow's.

    Returns:
        The picture (3, h, w) in [0, 1].

    Raises:
        UserError: There is no such file, or it is not a picture that can be read whole.
    """
    picture = read_picture(source)
    if len(picture) == 4:
        warnings.warn(
            f"{_name(source)} is transparent in parts, which are taken for white", stacklevel=2
        )
    return on_white(picture)


def read_picture(source: Source) -> Tensor:
    """A picture with its transparency; otherwise as `load_picture`.

    Args:
        source: A file, or a picture of Pillow's.

    Returns:
        (3, h, w) in [0, 1], or (4, h, w) of a picture that is transparent somewhere: its colours,
        and its alpha, 1 where it is opaque.

    Raises:
        UserError: As `load_picture`.
    """
    if isinstance(source, Image.Image):
        require_size(_name(source), source)
        return _read(source, _name(source))
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(
            f"a {type(source).__name__} is not a picture", "name a file, or give one of Pillow's"
        )
    with open_picture(source) as file:
        several = file.format != "MPO" and getattr(file, "is_animated", False)
        picture = _read(file, str(source))
    if several:
        warnings.warn(f"{source} holds several pictures: the first is taken", stacklevel=3)
    return picture


def on_white(picture: Tensor) -> Tensor:
    """A picture (3, h, w), or one with alpha (4, h, w), as it looks on white, (3, h, w)."""
    if len(picture) == 3:
        return picture
    colours, alpha = picture[:3], picture[3:]
    return alpha * colours + (1 - alpha)


def _name(source: Source) -> str:
    return "this picture" if isinstance(source, Image.Image) else str(source)


def _read(image: Image.Image, name: str) -> Tensor:
    """A picture of any mode as (3 or 4, h, w)."""
    profile = image.info.get("icc_profile")
    image = _turn(image, name)
    require_size(name, image)  # an icon's can be another than its header says
    colours, alpha = _split(image, name)
    picture = from_pil([_convert(colours, profile, name)])[0]
    if alpha is None or alpha.getextrema()[0] == 255:
        return picture
    return torch.cat([picture, torch.from_numpy(np.array(alpha))[None] / 255])


def _turn(image: Image.Image, name: str) -> Image.Image:
    """A picture as its camera was held."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF is no fault of the pixels
        warnings.warn(f"{name}: its EXIF is damaged, so that it may lie on its side", stacklevel=2)
        return image


def _split(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """The colours of a picture as 8 bits of L, RGB, CMYK or LAB, and its alpha."""
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image).astype(np.float32)
        key = image.info.get("transparency")
        grey = Image.fromarray((255 * _scale(levels, image.mode, name)).round().astype(np.uint8))
        clear = None if not isinstance(key, int) else (levels != key).astype(np.uint8) * 255
        return grey, None if clear is None else Image.fromarray(clear)
    if image.mode in ("CMYK", "LAB"):
        return image, None
    if not image.has_transparency_data:
        return image.convert("L" if image.mode in ("1", "L") else "RGB"), None
    if image.mode == "La":
        image = image.convert("LA")
    full = image.convert("RGBA")
    colours = image.getchannel("L") if image.mode == "LA" else full.convert("RGB")
    return colours, full.getchannel("A")


def _scale(levels: np.ndarray, mode: str, name: str) -> np.ndarray:
    """Grey of 16 or 32 bits, or of floating-point numbers, in [0, 1]."""
    low, high = levels.min(), levels.max()
    white = 1.0 if mode == "F" else 65535.0
    if low >= 0 and high <= white:  # false if one is not a number
        return levels / white
    raise UserError(
        f"{name} has levels from {low:g} to {high:g}, so that its white is unknown",
        f"scale them to [0, {white:g}], or save it as a PNG",
    )


def _convert(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """A picture of 8 bits in sRGB: by its own profile, if it has one."""
    if image.mode != "LAB" and not profile:
        return image.convert("RGB")
    try:
        from PIL import ImageCms

        srgb = ImageCms.createProfile("sRGB")
        if image.mode == "LAB":
            return _apply(image, ImageCms.createProfile("LAB"), srgb)
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        space = own.profile.xcolor_space.strip()
        if image.mode == "L" and space == "RGB":
            image = image.convert("RGB")
        if space != _SPACES[image.mode]:
            raise ValueError(f"it is of {space} colours")
        if image.mode == "RGB":
            every = np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3), axis=-1)
            probe = Image.fromarray(every.reshape(16, -1, 3).astype(np.uint8))
            moved = np.asarray(_apply(probe, own, srgb)).astype(int) - np.asarray(probe)
            if np.abs(moved).max() <= _SAME:
                return image
        return _apply(image, own, srgb)
    except Exception as error:  # a damaged profile is no fault of the pixels
        if image.mode == "LAB":
            raise
        told = f"{name}: its colour profile cannot be used ({error}); it is taken for sRGB"
        warnings.warn(" ".join(told.split()), stacklevel=2)
        return image.convert("RGB")


def _apply(image: Image.Image, own: Any, srgb: Any) -> Image.Image:
    """Colours of a profile as those of sRGB."""
    from PIL import ImageCms

    transform = ImageCms.buildTransform(own, srgb, image.mode, "RGB")
    moved = ImageCms.applyTransform(image, transform)
    if moved is None:
        raise ValueError("nothing came of it")
    return moved
