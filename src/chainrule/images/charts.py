"""Line charts of what changes over the iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 110, 20, 50
"""The size of a chart and its margins, in pixels."""

LEGEND = 20
"""How many lines are named at most."""


def loss_curves(curves: Mapping[str, Tensor], seeds: Sequence[int]) -> Image.Image:
    """Line charts below one another, one for each quantity over the iterations.

    Args:
        curves: The values (k, B) of each quantity at k iterations for B images, by its name.
        seeds: The seed of each image.

    Returns:
        The charts as one RGB picture.
    """
    labels = [f"seed {seed}" for seed in seeds]
    charts = [
        chart(name, values, labels, ("iteration 0", str(len(values) - 1)))
        for name, values in curves.items()
    ]
    sheet = Image.new("RGB", (charts[0].width, sum(part.height for part in charts)))
    for i, part in enumerate(charts):
        sheet.paste(part, (0, i * part.height))
    return sheet


def chart(name: str, history: Tensor, labels: Sequence[str], ends: tuple[str, str]) -> Image.Image:
    """A line chart. A line has no point where its value is not finite.

    Args:
        name: What is shown, under the axis.
        history: The values (k, n) of n lines at k places; at least one must be finite.
        labels: The name of each line.
        ends: What stands at the first place of the axis, and at the last.

    Returns:
        The chart as an RGB picture of 720 by 420 pixels.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    known = history[history.isfinite()]
    low, high = known.min().item(), known.max().item()
    high = high if high > low else low + 1.0
    across = (WIDTH - LEFT - RIGHT) / max(len(history) - 1, 1)
    up = (HEIGHT - TOP - BOTTOM) / (high - low)
    for tick in range(5):
        value = low + (high - low) * tick / 4
        y = HEIGHT - BOTTOM - (value - low) * up
        draw.line([(LEFT, y), (WIDTH - RIGHT, y)], "#dddddd")
        draw.text((8, y - 8), f"{value:.3g}", "black", font)
    draw.text((LEFT, HEIGHT - 28), ends[0], "black", font)
    draw.text((WIDTH - RIGHT, HEIGHT - 28), ends[1], "black", font, anchor="ra")
    draw.text((WIDTH / 2, HEIGHT - 21), name, "black", font, anchor="mm")
    for index, label in enumerate(labels):
        colour = COLOURS[index % len(COLOURS)]
        points = [
            (LEFT + k * across, HEIGHT - BOTTOM - (value - low) * up)
            for k, value in enumerate(history[:, index].tolist())
            if math.isfinite(value)
        ]
        draw.line(points if len(points) > 1 else points * 2, colour, 2)
        if index < LEGEND:
            draw.text((WIDTH - RIGHT + 12, TOP + 18 * index), label, colour, font)
    return picture
