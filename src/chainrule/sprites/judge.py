"""Reading a picture of the world of sprites.

Pixels tell the ground; two judge networks tell things and styles. Of two things, each is looked at
alone, in the window where its caption's relation puts it. No guidance ever touches the judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.losses.classifier import ImageClassifier, load_classifier
from chainrule.scenes.base import RELATIONS
from chainrule.sprites.artwork import SIDE, STYLES
from chainrule.sprites.base import GROUNDS, Scene
from chainrule.sprites.things import KINDS

WINDOW = 34
"""Width and height, in pixels, of the part of a picture where one of two things is."""

PLACES = {
    "left of": ((16, 32), (48, 32)),
    "right of": ((48, 32), (16, 32)),
    "above": ((32, 16), (32, 48)),
    "below": ((32, 48), (32, 16)),
}
"""Where a relation puts the first thing and the second: (x, y) in pixels."""

CORNER = 5
"""The ground is read in the upper corners, where graded ones begin: squares of so many pixels."""


@dataclass(frozen=True, eq=False)
class Judges:
    """The networks that judge.

    Args:
        things: Logits over the names of `KINDS`.
        styles: Logits over the names of `STYLES`.
    """

    things: ImageClassifier
    styles: ImageClassifier

    @torch.no_grad()
    def name_things(self, images: Tensor) -> list[str]:
        """The kind of the one thing in each of the images (B, 3, 64, 64) in [0, 1]."""
        labels = list(KINDS)
        found = torch.cat([self.things(part).argmax(dim=1) for part in images.float().split(256)])
        return [labels[i] for i in found.tolist()]

    @torch.no_grad()
    def name_styles(self, images: Tensor) -> list[str]:
        """The style of each of the images (B, 3, 64, 64) in [0, 1]."""
        labels = list(STYLES)
        found = torch.cat([self.styles(part).argmax(dim=1) for part in images.float().split(256)])
        return [labels[i] for i in found.tolist()]


def load_judges(weights: Path, device: str | torch.device = "cpu") -> Judges:
    """The judges of the world whose weights are in a folder."""
    return Judges(
        load_classifier(weights / "judge", device, role="judge"),
        load_classifier(weights / "style_judge", device, role="judge"),
    )


def cut(images: Tensor, centres: Tensor) -> Tensor:
    """A window of each image, as large as an image.

    Args:
        images: Images (B, 3, 64, 64).
        centres: The windows' centres (B, 2), (x, y) in pixels.
    """
    zoom = torch.full_like(centres[:, 0], WINDOW / SIDE)
    none = torch.zeros_like(zoom)
    x, y = (2 * centres / SIDE - 1).unbind(dim=1)
    windows = torch.stack([zoom, none, x, none, zoom, y], dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(windows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def read_ground(image: Tensor) -> str:
    """The name of the ground of an image (3, 64, 64) in [0, 1]."""
    corners = torch.cat([image[:, :CORNER, :CORNER], image[:, :CORNER, -CORNER:]], dim=2)
    colour = corners.detach().float().cpu().flatten(1).median(dim=1).values
    known = torch.tensor([ends[0] for ends in GROUNDS.values()]) / 255
    return list(GROUNDS)[int((known - colour).square().sum(dim=1).argmin())]


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what its caption says; None: the caption says nothing of it."""

    things: bool
    ground: bool
    relation: bool | None
    style: bool | None

    @property
    def right(self) -> bool:
        """Whether all that the caption says is there."""
        said = (self.things, self.ground, self.relation, self.style)
        return all(value is not False for value in said)


def check(judges: Judges, scene: Scene, image: Tensor) -> Verdict:
    """Judge a picture by its caption.

    Only what has a word counts: a hidden thing may be any of its genus. Two things are right where
    the caption puts them; or in another order, and then the relation is wrong.

    Args:
        judges: Who judges.
        scene: What the caption says.
        image: The picture (3, 64, 64) in [0, 1].
    """
    image = image.detach().float()
    things, relation = _check_things(judges, scene, image)
    style = None
    if scene.style_said:
        style = judges.name_styles(image[None])[0] == scene.style
    return Verdict(things, read_ground(image) == scene.ground, relation, style)


def _check_things(judges: Judges, scene: Scene, image: Tensor) -> tuple[bool, bool | None]:
    wanted = [thing.phrase for thing in scene.things]
    if scene.relation is None:
        return [_phrase(name) for name in judges.name_things(image[None])] == wanted, None
    seen = {relation: _see_pair(judges, relation, image) for relation in RELATIONS}
    related = seen[scene.relation] == wanted
    return related or wanted in seen.values(), related


def _see_pair(judges: Judges, relation: str, image: Tensor) -> list[str]:
    """What is in the places of the first thing and the second."""
    centres = torch.tensor(PLACES[relation], dtype=image.dtype, device=image.device)
    parts = cut(image.expand(2, -1, -1, -1), centres)
    return [_phrase(name) for name in judges.name_things(parts)]


def _phrase(name: str) -> str:
    """What captions call a kind of thing."""
    kind = KINDS[name]
    return f"{kind.colour} {kind.word}" if kind.colour else kind.word
