"""Reading a picture of the bundled world.

Pixels tell colours, places and background; the judge network tells shapes. Things are saturated
and backgrounds grey, so a pixel belongs to a thing if its chroma is high, and to the colour whose
hue is nearest. No guidance ever touches the judge network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.losses.classifier import ImageClassifier, load_classifier
from chainrule.scenes.base import BACKGROUNDS, COLOURS, SHAPES, Scene

MIN_CHROMA = 0.2
MIN_SHARE = 0.1
"""A colour is a thing's if it covers at least this share of all saturated pixels."""

SINGLE_EXTENT = 32
"""How many pixels a single thing is wide or high, about."""


@dataclass(frozen=True)
class Seen:
    """One thing in a picture: its colour, centre and area in pixels."""

    colour: str
    x: float
    y: float
    area: int


@dataclass(frozen=True)
class Reading:
    """What the pixels of a picture show: the background, and the things, largest first."""

    background: str
    things: tuple[Seen, ...]


def hue(colour: Tensor) -> Tensor:
    """The hue angle in radians of (..., 3) colours, from the two chromatic axes of the RGB cube."""
    red, green, blue = colour.unbind(-1)
    return torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)


def _colour_map(image: Tensor) -> tuple[Tensor, Tensor]:
    """Of an image (3, H, W), each pixel's nearest colour and whether it is a thing's, (H, W)."""
    pixels = image.permute(1, 2, 0)
    chroma = pixels.amax(-1) - pixels.amin(-1)
    hues = hue(torch.tensor(list(COLOURS.values())) / 255)
    difference = hue(pixels)[..., None] - hues
    distance = torch.atan2(difference.sin(), difference.cos()).abs()
    return distance.argmin(-1), chroma > MIN_CHROMA


def read(image: Tensor) -> Reading:
    """The reading of one `image` (3, 64, 64) in [0, 1]."""
    image = image.detach().float().cpu()
    nearest, saturated = _colour_map(image)
    grey = image.mean(0)[~saturated]
    level = 255 * grey.median().item() if grey.numel() else 0.0
    middles = {name: sum(ends) / 2 for name, ends in BACKGROUNDS.items()}
    background = min(middles, key=lambda name: abs(middles[name] - level))
    total = int(saturated.sum())
    things = []
    for index, colour in enumerate(COLOURS):
        rows, columns = torch.nonzero(saturated & (nearest == index), as_tuple=True)
        if len(rows) > MIN_SHARE * total and len(rows) >= 12:
            things.append(
                Seen(colour, columns.float().mean().item(), rows.float().mean().item(), len(rows))
            )
    return Reading(background, tuple(sorted(things, key=lambda thing: -thing.area)))


def isolate(image: Tensor, colour: str) -> Tensor:
    """One thing alone, in the middle, and as large as the judge knows single things.

    Things of other colours are painted over with the background's median.

    Args:
        image: The image (3, 64, 64) in [0, 1].
        colour: The name of the thing's colour.

    Returns:
        The thing (3, 64, 64); only the background if there is nothing of that colour.
    """
    nearest, saturated = _colour_map(image)
    other = saturated & (nearest != list(COLOURS).index(colour))
    around = functional.max_pool2d(other.float()[None], 5, stride=1, padding=2)[0] > 0
    mine = saturated & ~other
    fill = (
        image[:, ~saturated].median(dim=1).values if (~saturated).any() else image.mean(dim=(1, 2))
    )
    alone = torch.where((around & ~mine)[None], fill[:, None, None], image)
    rows, columns = torch.nonzero(mine, as_tuple=True)
    if not len(rows):
        return alone
    ends = torch.tensor([0.01, 0.99])  # a stray pixel does not count
    (left, right), (top, bottom) = columns.float().quantile(ends), rows.float().quantile(ends)
    zoom = max(right - left + 1, bottom - top + 1) / SINGLE_EXTENT
    x, y = (
        (first + last + 1) / image.shape[-1] - 1 for first, last in ((left, right), (top, bottom))
    )  # -1 to 1
    window = torch.tensor([[[zoom, 0.0, x], [0.0, zoom, y]]])
    grid = functional.affine_grid(window, [1, *image.shape], align_corners=False)
    return functional.grid_sample(alone[None], grid, padding_mode="border", align_corners=False)[0]


def related(relation: str, first: Seen, second: Seen) -> bool:
    """Whether one thing stands in a relation to another: mainly so, and by at least 6 pixels.

    Args:
        relation: One of `chainrule.scenes.base.RELATIONS`.
        first: What is "left of", say.
        second: What it is left of.
    """
    dx, dy = first.x - second.x, first.y - second.y
    along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
    along = -along if relation in ("left of", "above") else along
    return along >= 6 and along >= abs(across)


def load_judge() -> ImageClassifier:
    """The judge of shapes: logits over `SHAPES`.

    It is independent of the guide in architecture, seed and data.
    """
    return load_classifier(role="judge")


@torch.no_grad()
def probabilities(judge: ImageClassifier, images: Tensor) -> Tensor:
    """How probable the judge finds each shape.

    Args:
        judge: Who judges.
        images: Images (B, 3, 64, 64) in [0, 1] of a single thing each.

    Returns:
        Probabilities (B, 11), in the order of `SHAPES`.
    """
    return torch.cat([judge(part).softmax(dim=1) for part in images.float().split(256)])


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what its scene says; None: the caption says nothing of it."""

    colours: bool
    background: bool
    shapes: bool | None
    relation: bool | None

    @property
    def right(self) -> bool:
        """Whether all that the caption says is there."""
        return (
            self.colours
            and self.background
            and self.shapes is not False
            and self.relation is not False
        )


def check(judge: ImageClassifier, scene: Scene, image: Tensor) -> Verdict:
    """Judge a picture by its caption: only what has a word counts.

    Args:
        judge: Who tells shapes.
        scene: What the caption says.
        image: The picture (3, 64, 64) in [0, 1].
    """
    image = image.detach().float().cpu()
    reading = read(image)
    found = {thing.colour: thing for thing in reading.things}
    colours = {thing.colour for thing in scene.things} == set(found)
    named = [thing for thing in scene.things if thing.word != "shape"]
    shapes = None
    if named:
        parts = torch.stack([isolate(image, thing.colour) for thing in named])
        seen = [SHAPES[i] for i in probabilities(judge, parts).argmax(dim=1).tolist()]
        shapes = colours and all(
            shape == thing.shape for shape, thing in zip(seen, named, strict=True)
        )
    relation = None
    if scene.relation:
        pair = [found.get(thing.colour) for thing in scene.things]
        relation = (
            pair[0] is not None
            and pair[1] is not None
            and related(scene.relation, pair[0], pair[1])
        )
    return Verdict(colours, reading.background == scene.background, shapes, relation)
