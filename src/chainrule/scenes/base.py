"""The bundled world of coloured shapes: what a scene is, how it is drawn, what its caption says.

A scene of 64x64 pixels holds one or two things on a grey-scale background. Everything is drawn
from a specification, so every claim about a picture can be checked:

- **Named shapes** have a word (circle, square, triangle). **Hidden shapes** (star, heart, cross,
  moon, ring, hexagon, diamond, arrow) have none: each is called "shape". They are the vocabulary
  to expand.
- Stripes and background gradients have no word either: they are the effects to transfer.
- Backgrounds are grey, things are saturated, and the hues lie far apart: pixels tell where a thing
  is and which colour it has, without a network (`chainrule.scenes.judge`).
- Some combinations are **held out of training** (`HELD_OUT_PAIRS`, `HELD_OUT_BELOW`): prompts that
  use them are compositions the generator has never seen.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from chainrule.errors import UserError

SIDE = 64
"""Width and height of a scene, in pixels."""

NAMED_SHAPES = ("circle", "square", "triangle")
HIDDEN_SHAPES = ("star", "heart", "cross", "moon", "ring", "hexagon", "diamond", "arrow")
SHAPES = NAMED_SHAPES + HIDDEN_SHAPES

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "orange": (242, 128, 24),
    "yellow": (240, 228, 40),
    "green": (40, 168, 64),
    "cyan": (44, 192, 214),
    "blue": (44, 84, 216),
    "purple": (140, 58, 200),
    "pink": (242, 110, 178),
}
"""The colours of things as (red, green, blue) in 0..255; no two hues within 28 degrees."""

BACKGROUNDS: dict[str, tuple[int, int]] = {
    "white": (248, 212),
    "gray": (150, 106),
    "black": (6, 46),
}
"""Each background's grey level (0..255); a gradient runs from the first value to the second."""

RELATIONS = ("left of", "right of", "above", "below")
SIZE_WORDS = {"small": (11.0, 14.0), "large": (21.0, 26.0)}
"""The radius range, in pixels, that a size word promises for a single thing."""

HELD_OUT_PAIRS = frozenset(
    {("purple", "circle"), ("green", "triangle"), ("orange", "square"), ("blue", "triangle")}
)
"""Pairs of colour and named shape that no training scene holds."""

HELD_OUT_BELOW = frozenset({frozenset({"circle", "square"}), frozenset({"triangle", "square"})})
"""Pairs of named shapes that no training caption joins with "below" (their scenes say "above")."""

STRIPE_SHADE = 0.55
STRIPE_PERIOD = 8.0
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Thing:
    """One object.

    Args:
        shape: The name of its shape, named or hidden.
        colour: The name of its colour.
        x: Its centre, in pixels from the left.
        y: Its centre, in pixels from the top.
        radius: About half its extent, in pixels.
        angle: How far it is turned, in degrees, counter-clockwise.
        striped: Whether it has stripes.
    """

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float = 0.0
    striped: bool = False

    @property
    def word(self) -> str:
        """What a caption may call it: hidden shapes have no word of their own."""
        return self.shape if self.shape in NAMED_SHAPES else "shape"


@dataclass(frozen=True)
class Scene:
    """A picture's whole specification.

    Args:
        things: One thing, or two.
        background: The name of its grey.
        gradient: Whether the background has a gradient.
        relation: Where the first thing is with respect to the second; None for a single thing.
        size_word: What is said of a single thing whose radius is in that word's range.
    """

    things: tuple[Thing, ...]
    background: str
    gradient: bool = False
    relation: str | None = None
    size_word: str | None = None

    @property
    def caption(self) -> str:
        """The scene in words, as in "a red circle above a blue shape on a white background"."""
        first, *others = (f"{thing.colour} {thing.word}" for thing in self.things)
        size = f"{self.size_word} " if self.size_word else ""
        relation = f" {self.relation} {article(others[0])} {others[0]}" if others else ""
        return f"{article(size or first)} {size}{first}{relation} on a {self.background} background"

    @property
    def held_out(self) -> bool:
        """Whether the scene is one of the combinations that training never shows."""
        if any((thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in self.things):
            return True
        return (
            self.relation == "below"
            and frozenset(thing.shape for thing in self.things) in HELD_OUT_BELOW
        )


def article(word: str) -> str:
    """The indefinite article of `word`.

    >>> article("orange"), article("red")
    ('an', 'a')
    """
    return "an" if word[0] in "aeiou" else "a"


# --- sampling ------------------------------------------------------------------------------------


def sample_scene(
    seed: int, *, shape: str | None = None, single: bool = False, held_out: bool = False
) -> Scene:
    """The scene of a seed: the same arguments give the same scene.

    Args:
        seed: Any whole number.
        shape: The (first) shape; None: any.
        single: Whether there is to be one thing only.
        held_out: Whether combinations that training never shows may be drawn.

    Raises:
        UserError: There is no such shape.
    """
    if shape is not None and shape not in SHAPES:
        raise UserError(f"there is no shape {shape!r}", f"choose among {', '.join(SHAPES)}")
    rng = random.Random(f"{seed}/{shape}/{single}")
    while True:
        scene = _draw_scene(rng, shape, single)
        if held_out or not scene.held_out:
            return scene


def _draw_scene(rng: random.Random, shape: str | None, single: bool) -> Scene:
    background, gradient = rng.choice(list(BACKGROUNDS)), rng.random() < 0.25
    first = shape or _draw_shape(rng)
    if single or rng.random() < 0.7:
        size_word = rng.choice(list(SIZE_WORDS)) if rng.random() < 0.3 else None
        radius = rng.uniform(*(SIZE_WORDS[size_word] if size_word else (15.0, 25.0)))
        thing = _draw_thing(
            rng,
            first,
            rng.choice(list(COLOURS)),
            radius,
            (32.0, 32.0),
            min(6.0, 30.0 - 1.08 * radius),
        )
        return Scene((thing,), background, gradient, None, size_word)
    relation = rng.choice(RELATIONS)
    colours = rng.sample(list(COLOURS), 2)
    shift = 15.5 if relation in ("right of", "below") else -15.5
    offsets = (shift, 0.0) if relation in ("left of", "right of") else (0.0, shift)
    things = tuple(
        _draw_thing(
            rng,
            name,
            colour,
            rng.uniform(11.0, 13.5),
            (32 + sign * offsets[0], 32 + sign * offsets[1]),
            1.0,
        )
        for name, colour, sign in zip((first, _draw_shape(rng)), colours, (1, -1), strict=True)
    )
    return Scene(things, background, gradient, relation)


def _draw_shape(rng: random.Random) -> str:
    return rng.choice(NAMED_SHAPES if rng.random() < 0.4 else HIDDEN_SHAPES)


def _draw_thing(
    rng: random.Random,
    shape: str,
    colour: str,
    radius: float,
    centre: tuple[float, float],
    jitter: float,
) -> Thing:
    x, y = (value + rng.uniform(-jitter, jitter) for value in centre)
    return Thing(shape, colour, x, y, radius, rng.uniform(-10.0, 10.0), rng.random() < 0.2)


# --- drawing -------------------------------------------------------------------------------------


def render(scene: Scene) -> Image.Image:
    """The picture of `scene`: RGB, 64x64 pixels, drawn at four times the size and reduced."""
    side = SIDE * SUPERSAMPLING
    top, bottom = BACKGROUNDS[scene.background]
    level = np.linspace(top, bottom if scene.gradient else top, side)[:, None]
    canvas = Image.fromarray(np.broadcast_to(level, (side, side)).round().astype(np.uint8)).convert(
        "RGB"
    )
    for thing in scene.things:
        canvas.paste(Image.fromarray(_paint(thing, side)), mask=_mask(thing, side))
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX)


def _mask(thing: Thing, side: int) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    for value, outline in OUTLINES[thing.shape]:
        x, y = _to_canvas(thing, outline)
        draw.polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=value)
    return mask


def _to_canvas(thing: Thing, outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = math.cos(math.radians(thing.angle)), math.sin(math.radians(thing.angle))
    u, v = outline[:, 0], outline[:, 1]
    x = thing.x + thing.radius * (cos * u - sin * v)
    y = thing.y - thing.radius * (sin * u + cos * v)  # pixels count downwards
    return x * SUPERSAMPLING, y * SUPERSAMPLING


def _paint(thing: Thing, side: int) -> np.ndarray:
    """The thing's colour over the whole canvas, (side, side, 3).

    Plain, or in stripes that turn with the thing.
    """
    colour = np.array(COLOURS[thing.colour], dtype=np.float64)
    shade = np.ones((side, side))
    if thing.striped:
        grid = np.arange(side) / SUPERSAMPLING
        cos, sin = math.cos(math.radians(thing.angle)), math.sin(math.radians(thing.angle))
        across = cos * (grid[:, None] - thing.y) + sin * (grid[None, :] - thing.x)
        shade[(across / STRIPE_PERIOD) % 1.0 < 0.5] = STRIPE_SHADE
    return (colour * shade[..., None]).round().astype(np.uint8)


def _regular(count: int, radius: float = 1.0, start: float = 90.0) -> np.ndarray:
    turn = np.radians(start + np.arange(count) * 360.0 / count)
    return radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _star() -> np.ndarray:
    points = np.empty((10, 2))
    points[0::2], points[1::2] = _regular(5), _regular(5, 0.42, 126.0)
    return points


def _heart() -> np.ndarray:
    t = np.linspace(0.0, 2 * math.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, y + 2.5], axis=1) / 16.5


def _moon() -> np.ndarray:
    outer = np.radians(np.linspace(60.0, 300.0, 48))
    tip = np.array([math.cos(outer[0]), math.sin(outer[0])])
    centre = np.array([0.62, 0.0])  # the bite is a circle through both tips around this centre
    bite = math.hypot(*(tip - centre))
    angle = math.atan2(tip[1], tip[0] - centre[0])
    inner = np.linspace(2 * math.pi - angle, angle, 48)
    arcs = [
        np.stack([np.cos(outer), np.sin(outer)], 1),
        centre + bite * np.stack([np.cos(inner), np.sin(inner)], 1),
    ]
    return np.concatenate(arcs) + np.array([0.2, 0.0])


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points)


_ARM = 0.34
OUTLINES: dict[str, tuple[tuple[int, np.ndarray], ...]] = {
    "circle": ((255, _regular(64, 0.92)),),
    "square": ((255, _regular(4, 1.08, 45.0)),),
    "triangle": ((255, _regular(3, 1.08) - np.array([0.0, 0.15])),),
    "star": ((255, _star() * 1.08),),
    "heart": ((255, _heart()),),
    "cross": (
        (
            255,
            _polygon(
                *(
                    (1.0, -_ARM),
                    (1.0, _ARM),
                    (_ARM, _ARM),
                    (_ARM, 1.0),
                    (-_ARM, 1.0),
                    (-_ARM, _ARM),
                ),
                *(
                    (-1.0, _ARM),
                    (-1.0, -_ARM),
                    (-_ARM, -_ARM),
                    (-_ARM, -1.0),
                    (_ARM, -1.0),
                    (_ARM, -_ARM),
                ),
            ),
        ),
    ),
    "moon": ((255, _moon()),),
    "ring": ((255, _regular(64)), (0, _regular(64, 0.56))),
    "hexagon": ((255, _regular(6, 1.0, 0.0)),),
    "diamond": ((255, _polygon((0.62, 0.0), (0.0, 1.08), (-0.62, 0.0), (0.0, -1.08))),),
    "arrow": (
        (
            255,
            _polygon(
                (1.05, 0.0),
                (0.2, 0.8),
                (0.2, 0.32),
                (-1.0, 0.32),
                (-1.0, -0.32),
                (0.2, -0.32),
                (0.2, -0.8),
            ),
        ),
    ),
}
"""Each shape as filled polygons around the origin within a radius of about 1: (fill, points).

A fill of 0 cuts a hole.
"""


def contact_sheet(images: list[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Pictures in rows.

    Args:
        images: Pictures of one size.
        columns: How many stand in a row.
        gap: How many white pixels are between them.
    """
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet
