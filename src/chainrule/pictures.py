"""Pictures, in and out: photos, labelled grids, loss curves. Pillow only."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from chainrule.errors import UserError

TILE = 192
"""The least side of an image in a grid, in pixels; smaller ones are enlarged by a whole factor."""

LETTER = 8
"""The width of a letter of a grid's title, in pixels, rather too wide than too narrow."""

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")


def to_pil(image: Tensor) -> Image.Image:
    """`image` (3, H, W) in [0, 1] as an RGB picture."""
    pixels = image.detach().float().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def from_pil(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255


def load_picture(path: str | Path) -> Tensor:
    """The picture in a file as (3, H, W) in [0, 1]: turned as its camera says, on white where it is transparent.

    Raises UserError if there is none, or if it is not a picture.
    """
    try:
        with Image.open(Path(path).expanduser()) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
                image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            picture = from_pil([image.convert("RGB")])[0]
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: name a picture") from None
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} is not an image: name a picture, a PNG or a JPEG for example") from error
    return picture


def fitted(picture: Tensor, area: int, multiple: int) -> Tensor:
    """`picture` (3, h, w) with about `area` pixels and sides that are multiples of `multiple`, (3, H, W).

    Its proportions change by less than `multiple` asks for; `framed` gives them back.
    """
    height, width = picture.shape[-2:]
    scale = math.sqrt(area / (height * width))
    sides = tuple(max(1, round(scale * side / multiple)) * multiple for side in (height, width))
    return resized(picture[None], sides)[0]


def load_mask(path: str | Path, original: tuple[int, int], size: tuple[int, ...]) -> Tensor:
    """The mask in a file, white where a picture may change, for images of `size` (H, W): (1, 1, H, W) of 0 and 1.

    Raises UserError if there is none, or if it has not the picture's own height and width (`original`).
    """
    mask = load_picture(path).mean(dim=0)
    if tuple(mask.shape) != original:
        (h, w), (height, width) = mask.shape, original
        raise UserError(f"the mask {path} is {w}x{h} pixels and the picture {width}x{height}: they must be as large")
    return (functional.interpolate(mask[None, None], size, mode="area") > 0.5).float()


NEAR, HUE, CHROMA = 0.25, math.radians(20), 0.15
"""How far a pixel may be from a grey, in RGB, to be of it; from a colour, in hue; and how colourful it must be then."""


def coloured(images: Tensor, colour: str) -> Tensor:
    """Where `images` (B, 3, H, W) are of a colour ("red", "#de2626"), and a little around: (B, 1, H, W) of 0 and 1.

    Raises UserError if there is no such colour.
    """
    try:
        wanted = images.new_tensor(ImageColor.getrgb(colour)[:3])[None, :, None, None] / 255
    except ValueError:
        raise UserError(f"{colour!r} is no colour: name one (red) or write it (#de2626)") from None
    if _chroma(wanted) > CHROMA:
        turn = _hue(images) - _hue(wanted)
        near = (torch.atan2(turn.sin(), turn.cos()).abs() < HUE) & (_chroma(images) > CHROMA)
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


def framed(images: Tensor, size: tuple[int, int]) -> Tensor:
    """`images` (B, 3, H, W) in the proportions of `size` (height, width), by shortening one side."""
    (height, width), ratio = images.shape[-2:], size[0] / size[1]
    taller = height / width > ratio
    return resized(images, (max(1, round(width * ratio)), width) if taller else (height, max(1, round(height / ratio))))


def resized(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """`images` (B, 3, H, W) in [0, 1] at another size, smoothly."""
    if tuple(images.shape[-2:]) == size:
        return images
    return functional.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def grid(
    columns: Mapping[str, Tensor], rows: Sequence[str], scores: Mapping[str, Sequence[str]], title: str = ""
) -> Image.Image:
    """Images side by side: a column for each method (B, 3, H, W), a row for each image, the score under each."""
    if not columns:
        return Image.new("RGB", (TILE, TILE), "white")
    height, width = next(iter(columns.values())).shape[-2:]
    factor = max(1, TILE // min(height, width))
    tile, line, margin, left = (width * factor, height * factor), 22, 10, 80
    across = left + len(columns) * (tile[0] + margin)
    titles = textwrap.wrap(title, across // LETTER) or [""]
    top = margin + line * len(titles)
    sheet = Image.new("RGB", (across, top + line + margin + len(rows) * (tile[1] + line + margin)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((margin, margin), "\n".join(titles), "black", font)
    for column, (name, images) in enumerate(columns.items()):
        x = left + column * (tile[0] + margin)
        draw.text((x, top), name, "black", font)
        for row, image in enumerate(images):
            y = top + line + row * (tile[1] + line + margin)
            sheet.paste(to_pil(image).resize(tile, Image.Resampling.BICUBIC), (x, y))
            draw.text((x, y + tile[1] + 3), scores[name][row], "#444444", font)
            if column == 0:
                draw.text((margin, y + tile[1] // 2), rows[row], "black", font)
    return sheet


def loss_curves(curves: Mapping[str, Tensor], seeds: Sequence[int]) -> Image.Image:
    """Line charts below one another, one for each named quantity (k, B) over the iterations."""
    labels = [f"seed {seed}" for seed in seeds]
    charts = [chart(name, v, labels, ("iteration 0", str(len(v) - 1))) for name, v in curves.items()]
    sheet = Image.new("RGB", (charts[0].width, sum(part.height for part in charts)))
    for i, part in enumerate(charts):
        sheet.paste(part, (0, i * part.height))
    return sheet


def chart(name: str, history: Tensor, labels: Sequence[str], ends: tuple[str, str]) -> Image.Image:
    """A line chart of `history` (k, n): one line for each label, from one end of the axis to the other.

    A line has no point where its value is not finite.
    """
    width, height, left, right, top, bottom = 720, 420, 70, 110, 20, 50
    picture = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    known = history[history.isfinite()]
    low, high = known.min().item(), known.max().item()
    high = high if high > low else low + 1.0
    across, up = (width - left - right) / max(len(history) - 1, 1), (height - top - bottom) / (high - low)
    for tick in range(5):
        value = low + (high - low) * tick / 4
        y = height - bottom - (value - low) * up
        draw.line([(left, y), (width - right, y)], "#dddddd")
        draw.text((8, y - 8), f"{value:.3g}", "black", font)
    draw.text((left, height - 28), ends[0], "black", font)
    draw.text((width - right, height - 28), ends[1], "black", font, anchor="ra")
    draw.text((width / 2, height - 21), name, "black", font, anchor="mm")
    for index, label in enumerate(labels):
        colour = COLOURS[index % len(COLOURS)]
        points = [
            (left + k * across, height - bottom - (v - low) * up)
            for k, v in enumerate(history[:, index].tolist())
            if math.isfinite(v)
        ]
        draw.line(points if len(points) > 1 else points * 2, colour, 2)
        if index < 20:
            draw.text((width - right + 12, top + 18 * index), label, colour, font)
    return picture
