"""Images side by side, with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from chainrule.images.reading import on_white, to_pil

TILE = 192
"""The least side of an image, in pixels; smaller ones are enlarged by a whole factor."""

LETTER = 8
"""The width of a letter of the title, in pixels, rather too wide than too narrow."""

LINE, MARGIN, LEFT = 22, 10, 80
"""The height of a line of text, the space between images, and the least left of them, in pixels."""


def contact_sheet(
    columns: Mapping[str, Tensor],
    rows: Sequence[str],
    captions: Mapping[str, Sequence[str]],
    title: str = "",
) -> Image.Image:
    """Images side by side: a column for each method, a row for each image, a caption under each.

    Args:
        columns: The images (B, 3, H, W) of each column, by the name that stands above it; those
            with alpha (B, 4, H, W) are shown on white.
        rows: What stands left of each of the B rows.
        captions: What stands under each image: B texts for each column, by its name.
        title: What stands above everything.

    Returns:
        The sheet as an RGB picture; an empty one if there is no column.
    """
    if not columns:
        return Image.new("RGB", (TILE, TILE), "white")
    height, width = next(iter(columns.values())).shape[-2:]
    factor = max(1, TILE // min(height, width))
    tile = width * factor, height * factor
    left = max(LEFT, MARGIN + LETTER * max(map(len, rows), default=0))
    across = left + len(columns) * (tile[0] + MARGIN)
    titles = textwrap.wrap(title, across // LETTER) or [""]
    heads = [textwrap.wrap(name, tile[0] // LETTER) for name in columns]
    top = MARGIN + LINE * len(titles)
    under = top + LINE * max(1, *map(len, heads))
    down = under + MARGIN + len(rows) * (tile[1] + LINE + MARGIN)
    sheet = Image.new("RGB", (across, down), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((MARGIN, MARGIN), "\n".join(titles), "black", font)
    for column, (name, images) in enumerate(columns.items()):
        x = left + column * (tile[0] + MARGIN)
        draw.text((x, top), "\n".join(heads[column]), "black", font)
        for row, image in enumerate(images):
            y = under + row * (tile[1] + LINE + MARGIN)
            sheet.paste(to_pil(on_white(image)).resize(tile, Image.Resampling.BICUBIC), (x, y))
            draw.text((x, y + tile[1] + 3), captions[name][row], "#444444", font)
            if column == 0:
                draw.text((MARGIN, y + tile[1] // 2), rows[row], "black", font)
    return sheet


def shorten(text: str, letters: int = 27) -> str:
    """`text` as a caption of at most so many letters.

    >>> shorten("a red shape on a white background")
    'a red shape on a white b...'
    """
    return text if len(text) <= letters else f"{text[: letters - 3]}..."
