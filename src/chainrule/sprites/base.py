"""The world of sprites: what a scene is, how it is composed, what its caption says.

A scene of 64x64 pixels holds one or two things of real artwork, in one of three artists' styles, on
a coloured ground. It is composed from a specification, so that what a picture should show is known:

- Most things have a word. Those of the **hidden genera** (`GENERA`: faces, fruit, birds,
  instruments, bugs, flowers, dogs) have none: each is called by its genus. They are the vocabulary
  to expand.
- Grounds may be graded, which no caption says: an effect to transfer.
- **Held out of training**: one thing in eleven whole (`HELD_OUT_KINDS`: artwork that the generator
  has never seen, to personalise with), and some things in one style, on one ground, or beside one
  another: compositions that it has never seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from chainrule.errors import UserError
from chainrule.scenes.base import RELATIONS, article
from chainrule.sprites.artwork import SIDE, STYLES, Artwork, resize
from chainrule.sprites.things import GENERA, KINDS

GROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "white": ((250, 250, 250), (196, 200, 206)),
    "gray": ((132, 134, 138), (88, 90, 94)),
    "black": ((16, 16, 20), (62, 62, 70)),
    "pink": ((250, 176, 204), (222, 116, 162)),
    "yellow": ((252, 226, 120), (236, 184, 60)),
    "green": ((128, 200, 128), (72, 148, 88)),
    "blue": ((124, 178, 240), (64, 116, 206)),
    "purple": ((168, 128, 220), (112, 74, 172)),
}
"""The colours of the grounds, (red, green, blue) in 0..255; graded ones end in the second."""

SIZE_WORDS = {"small": (28, 35), "large": (54, 60)}
"""The sizes, in pixels, that a word promises for a single thing."""

_NAMES = list(KINDS)
HELD_OUT_KINDS = frozenset(_NAMES[5::11])
"""Things that no training scene holds."""

HELD_OUT_STYLES = frozenset(
    (name, list(STYLES)[i // 8 % len(STYLES)]) for i, name in enumerate(_NAMES) if i % 8 == 0
)
"""(thing, style) that no training scene shows."""

HELD_OUT_GROUNDS = frozenset(
    (name, list(GROUNDS)[i // 8 % len(GROUNDS)]) for i, name in enumerate(_NAMES) if i % 8 == 4
)
"""(thing, ground) that no training scene shows."""

HIDDEN_SHARE = 0.2
"""Of the first things, how many are drawn from the hidden ones alone: many share a word."""

APART = 10
"""Two things whose places in the list differ by a multiple of this are never in one scene."""


@dataclass(frozen=True)
class Thing:
    """One thing in a scene.

    Args:
        kind: The name of its kind.
        x: Its centre, in pixels from the left.
        y: Its centre, in pixels from the top.
        size: Its larger side, in pixels.
        mirrored: Whether left and right are changed over.
    """

    kind: str
    x: int
    y: int
    size: int
    mirrored: bool = False

    @property
    def phrase(self) -> str:
        """What captions call it, with its colour if it comes in several."""
        kind = KINDS[self.kind]
        return f"{kind.colour} {kind.word}" if kind.colour else kind.word


@dataclass(frozen=True)
class Scene:
    """A picture's whole specification.

    Args:
        things: One thing, or two.
        style: The name of the artists' style.
        ground: The name of the ground's colour.
        graded: Whether the ground is graded.
        relation: Where the first thing is with respect to the second; None for a single thing.
        size_word: What is said of a single thing whose size is in that word's range.
        style_said: Whether the caption says the style.
    """

    things: tuple[Thing, ...]
    style: str
    ground: str
    graded: bool = False
    relation: str | None = None
    size_word: str | None = None
    style_said: bool = True

    @property
    def caption(self) -> str:
        """As in "a small bird in 3D on a blue background"."""
        first, *others = (thing.phrase for thing in self.things)
        size = f"{self.size_word} " if self.size_word else ""
        relation = f" {self.relation} {article(others[0])} {others[0]}" if others else ""
        style = f" {STYLES[self.style].words}" if self.style_said else ""
        head = f"{article(size or first)} {size}{first}{relation}{style}"
        return f"{head} on a {self.ground} background"

    @property
    def held_out(self) -> bool:
        """Whether the scene is one that training never shows."""
        kinds = [thing.kind for thing in self.things]
        places = [_NAMES.index(kind) for kind in kinds]
        return (
            any(kind in HELD_OUT_KINDS for kind in kinds)
            or any((kind, self.style) in HELD_OUT_STYLES for kind in kinds)
            or any((kind, self.ground) in HELD_OUT_GROUNDS for kind in kinds)
            or (len(places) == 2 and (places[0] - places[1]) % APART == 0)
        )


def list_words() -> list[str]:
    """All words that captions can hold; genera first, then things."""
    kinds = KINDS.values()
    texts = [
        *GENERA,
        *(kind.word for kind in kinds),
        *(kind.colour or "" for kind in kinds),
        *(style.words for style in STYLES.values()),
        *SIZE_WORDS,
        *RELATIONS,
        *GROUNDS,
        "background a an on",
    ]
    return list(dict.fromkeys(word for text in texts for word in text.lower().split()))


# --- sampling ------------------------------------------------------------------------------------


def sample_scene(
    seed: int,
    *,
    kinds: Sequence[str] | None = None,
    style: str | None = None,
    single: bool = False,
    held_out: bool = False,
) -> Scene:
    """The scene of a seed: the same arguments give the same scene.

    Args:
        seed: Any whole number.
        kinds: What the (first) thing may be; None: any.
        style: Its style; None: any.
        single: Whether there is to be one thing only.
        held_out: Whether what training never shows may be drawn.

    Raises:
        UserError: There is no such kind or style.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise UserError(f"there is no thing {kind!r}", "see chainrule.sprites.things.KINDS")
    if style is not None and style not in STYLES:
        raise UserError(f"there is no style {style!r}", f"choose among {', '.join(STYLES)}")
    rng = random.Random(f"{seed}/{','.join(kinds or ())}/{style}/{single}")
    for _ in range(10_000):
        scene = _draw_scene(rng, list(kinds or _NAMES), style, single)
        if held_out or not scene.held_out:
            return scene
    raise UserError(
        f"every scene of {', '.join(kinds or ())} is held out of training", "allow held_out"
    )


def _draw_scene(rng: random.Random, kinds: Sequence[str], style: str | None, single: bool) -> Scene:
    style = style or rng.choice(list(STYLES))
    ground, graded, said = rng.choice(list(GROUNDS)), rng.random() < 0.25, rng.random() < 0.75
    hidden = [kind for kind in kinds if KINDS[kind].hidden]
    first = rng.choice(hidden if hidden and rng.random() < HIDDEN_SHARE else kinds)
    if single or rng.random() < 0.75:
        size_word = rng.choice(list(SIZE_WORDS)) if rng.random() < 0.3 else None
        size = rng.randint(*(SIZE_WORDS[size_word] if size_word else (40, 58)))
        room = min(6, 31 - size // 2)
        thing = _draw_thing(rng, first, (32, 32), size, room)
        return Scene((thing,), style, ground, graded, None, size_word, said)
    relation = rng.choice(RELATIONS)
    shift = 16 if relation in ("right of", "below") else -16
    dx, dy = (shift, 0) if relation in ("left of", "right of") else (0, shift)
    things = tuple(
        _draw_thing(rng, kind, (32 + sign * dx, 32 + sign * dy), rng.randint(28, 31), 1)
        for kind, sign in ((first, 1), (rng.choice(_NAMES), -1))
    )
    return Scene(things, style, ground, graded, relation, None, said)


def _draw_thing(
    rng: random.Random, kind: str, centre: tuple[int, int], size: int, room: int
) -> Thing:
    x, y = (value + rng.randint(-room, room) for value in centre)
    return Thing(kind, x, y, size, rng.random() < 0.5)


# --- composing -----------------------------------------------------------------------------------


def render(scene: Scene, artwork: Artwork) -> Image.Image:
    """The picture of `scene`: RGB, 64x64 pixels."""
    canvas = paint_ground(scene.ground, scene.graded)
    for thing in scene.things:
        picture = artwork.picture(thing.kind, scene.style)
        if thing.mirrored:
            picture = ImageOps.mirror(picture)
        picture = resize(picture, thing.size, thing.size)
        canvas.paste(picture, (thing.x - thing.size // 2, thing.y - thing.size // 2), picture)
    return canvas


def paint_ground(ground: str, graded: bool) -> Image.Image:
    """A ground without things, RGB, 64x64 pixels."""
    top, bottom = (np.array(colour, dtype=float) for colour in GROUNDS[ground])
    share = np.linspace(0.0, 1.0 if graded else 0.0, SIDE)[:, None, None]
    rows = (top + share * (bottom - top)).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(rows, (SIDE, SIDE, 3))))
