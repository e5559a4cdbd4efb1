"""What is wished for, how it is said, and whether an image is it: for `rare.py` and `ladder.py`.

A hidden class; a hidden shape at a place and size (a picture's pixels); a hidden class with
stripes, a gradient and a size (likewise); a hidden class beside another thing (`image=`, a CLIP); a
combination that training never showed (`text=`, likewise); a striped thing from a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chainrule.images import from_pil
from chainrule.losses import Classifier, ClipImage, ClipText, load_classifier, load_clip
from chainrule.losses.base import Loss
from chainrule.losses.picture import Target
from chainrule.methods import Task
from chainrule.models import Model
from chainrule.scenes.base import BACKGROUNDS, SHAPES, Scene, Thing, render
from chainrule.scenes.judge import check, isolate, load_judge, probabilities, read
from tuning import is_striped


@dataclass(frozen=True)
class Wish:
    """What is wanted, and how it is said.

    Args:
        kind: "class", "silhouette", "look", "relation", "held out" or "picture".
        scene: What is wanted. Of a class or a look, place and turn do not matter.
    """

    kind: str
    scene: Scene

    @property
    def name(self) -> str:
        """For people."""
        thing = self.scene.things[-1 if self.kind == "relation" else 0]
        return f"{self.kind}: {'striped ' if thing.striped else ''}{thing.colour} {thing.shape}"

    @property
    def picture(self) -> Tensor:
        """What it would look like, (3, 64, 64)."""
        return from_pil([render(self.scene)])[0]

    @property
    def loss(self) -> str:
        """The kind of the loss."""
        known = {"class": "classifier", "held out": "text"}
        known |= dict.fromkeys(("silhouette", "look"), "picture")
        return known.get(self.kind, "image")

    def make_loss(self, device: torch.device) -> Loss:
        """What ways are told besides the caption."""
        if self.loss == "classifier":
            return Classifier(load_classifier(device=device), self.scene.things[0].shape)
        if self.loss == "picture":
            return Target(self.picture.to(device))
        clip = load_clip(device=device)
        if self.loss == "text":
            return ClipText(clip, self.scene.caption)
        return ClipImage(clip, [self.picture.to(device)])

    @torch.no_grad()
    def judge(self, images: Tensor) -> np.ndarray:
        """Whether each image (N, 3, 64, 64) in [0, 1] is what is wanted, (N,)."""
        right = self._show_things(images)
        if self.kind == "silhouette":
            right &= measure_overlap(images, self.picture) > 0.7
        if self.kind in ("look", "picture"):
            colour, striped = self.scene.things[0].colour, self.scene.things[0].striped
            right &= np.array([is_striped(image, colour) == striped for image in images])
        if self.kind == "look":
            sizes = np.array([measure_area(image) for image in images])
            right &= np.abs(sizes / measure_area(self.picture) - 1) < 0.25
            right &= np.array([has_gradient(image) for image in images]) == self.scene.gradient
        return right

    def _show_things(self, images: Tensor) -> np.ndarray:
        """Whether all things have their shapes, colours and relation, on their background."""
        judge = load_judge()
        right = np.array([check(judge, self.scene, image).right for image in images])
        hidden = [thing for thing in self.scene.things if thing.word == "shape"]
        for thing in hidden:
            (left,) = right.nonzero()
            if len(left):
                parts = torch.stack([isolate(images[i], thing.colour) for i in left])
                seen = probabilities(judge, parts).argmax(dim=1).numpy()
                right[left] = seen == SHAPES.index(thing.shape)
        return right


def make_task(model: Model, wish: Wish, seeds: Sequence[int]) -> Task:
    """What a wish asks of a model."""
    caption = wish.scene.caption
    loss = wish.make_loss(model.device)
    return Task(model, model.denoiser(caption), tuple(seeds), loss, prompts=(caption,))


def measure_spread(images: Tensor) -> float:
    """How far apart things are in images (N, 3, 64, 64): the mean distance of two, in pixels."""
    centres = torch.stack([coloured(image).nonzero().float().mean(dim=0) for image in images])
    return torch.pdist(centres.nan_to_num(32.0)).mean().item()


def coloured(images: Tensor) -> Tensor:
    """Which pixels belong to things, (..., H, W)."""
    return images.amax(dim=-3) - images.amin(dim=-3) > 0.2


def measure_overlap(images: Tensor, picture: Tensor) -> np.ndarray:
    """Intersection over union of what is coloured in images and in a picture, (N,)."""
    seen, wanted = coloured(images.cpu()), coloured(picture)
    both, either = (seen & wanted).sum(dim=(1, 2)), (seen | wanted).sum(dim=(1, 2))
    return (both / either.clamp(min=1)).numpy()


def measure_area(image: Tensor) -> int:
    """How many pixels are coloured."""
    return max(1, int(coloured(image).sum()))


def has_gradient(image: Tensor) -> bool:
    """Whether the background changes from top to bottom by half of what its gradients do."""
    image = image.cpu()
    grey, background = image.mean(dim=0), read(image).background
    around = ~coloured(image)
    top, bottom = (grey[rows][around[rows]] for rows in (slice(0, 12), slice(52, 64)))
    if not (top.numel() and bottom.numel()):
        return False
    first, last = (value / 255 for value in BACKGROUNDS[background])
    moved = (bottom.median() - top.median()).item()
    return bool(moved / (last - first) > 0.5)


def one(shape: str, colour: str, x: float, y: float, radius: float, **more: object) -> Thing:
    return Thing(shape, colour, x, y, radius, **more)  # type: ignore[arg-type]


def alone(kind: str, thing: Thing, background: str = "white", *, gradient: bool = False) -> Wish:
    return Wish(kind, Scene((thing,), background, gradient))


def beside(shape: str, colour: str, relation: str, background: str) -> Wish:
    """A circle, and a thing without a word that it stands in a relation to."""
    places = {"left of": ((16, 32), (47, 32)), "above": ((32, 16), (32, 47))}
    (x, y), (u, v) = places[relation]
    other = "green" if colour == "red" else "blue"
    things = one("circle", other, x, y, 12), one(shape, colour, u, v, 12)
    return Wish("relation", Scene(things, background, relation=relation))


WISHES = (
    alone("class", one("heart", "red", 32, 32, 20)),
    alone("class", one("moon", "red", 32, 32, 20)),
    alone("silhouette", one("heart", "red", 24, 30, 13)),
    alone("silhouette", one("star", "red", 40, 36, 14)),
    alone("silhouette", one("moon", "red", 30, 40, 16)),
    alone("silhouette", one("cross", "red", 36, 26, 12)),
    alone("look", one("star", "red", 32, 32, 22, striped=True), gradient=True),
    alone("look", one("ring", "red", 32, 32, 14, striped=True), gradient=True),
    beside("star", "red", "left of", "white"),
    beside("heart", "red", "above", "black"),
    alone("held out", one("triangle", "green", 32, 32, 20)),
    alone("held out", one("circle", "purple", 32, 32, 20), "black"),
    alone("picture", one("star", "red", 32, 32, 20, striped=True)),
    alone("picture", one("arrow", "red", 32, 32, 20, striped=True)),
)
OTHER_WISHES = (
    alone("class", one("cross", "blue", 32, 32, 20), "gray"),
    alone("silhouette", one("diamond", "blue", 38, 28, 13), "gray"),
    alone("silhouette", one("arrow", "blue", 28, 38, 15), "gray"),
    alone("look", one("moon", "blue", 32, 32, 18, striped=True), "gray", gradient=True),
    beside("diamond", "yellow", "above", "gray"),
    alone("held out", one("square", "orange", 32, 32, 20), "gray"),
    alone("picture", one("hexagon", "blue", 32, 32, 20, striped=True), "gray"),
    beside("moon", "yellow", "left of", "gray"),
)
"""For choosing settings."""
