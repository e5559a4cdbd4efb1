"""Pictures in files, and pictures of Pillow, as tensors and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from chainrule.errors import UserError


def to_pil(image: Tensor) -> Image.Image:
    """An `image` (3, H, W) in [0, 1] as an RGB picture of 8 bits."""
    image = image.detach().float().cpu().clamp(0, 1)
    pixels = image.mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def from_pil(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB `pictures` of one size as images (N, 3, H, W) in [0, 1]."""
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


def load_picture(path: str | Path) -> Tensor:
    """The picture in a file, turned as its camera says, on white where it is transparent.

    Args:
        path: A file of any format that Pillow reads; "~" is the home folder.

    Returns:
        The picture (3, H, W) in [0, 1].

    Raises:
        UserError: There is no such file, or it is not a picture.
    """
    try:
        with Image.open(Path(path).expanduser()) as file:
            return from_pil([_as_rgb(ImageOps.exif_transpose(file))])[0]
    except FileNotFoundError:
        raise UserError(f"there is no file {path}", "name a picture") from None
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(
            f"{path} is not an image", "name a picture, a PNG or a JPEG for example"
        ) from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        levels = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(levels.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
