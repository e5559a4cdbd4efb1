"""`loss.select(rows)` is the loss of these images, whatever the loss holds of each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from chainrule import Noise
from chainrule.losses import (
    Aesthetic,
    Brightness,
    Call,
    Classifier,
    ClipDirection,
    ClipImage,
    ClipText,
    ColourHistogram,
    Cutouts,
    ImageClassifier,
    Loss,
    Perceptual,
    Rater,
    Style,
    Symmetry,
    Target,
    load_backbone,
    load_clip,
)
from chainrule.losses.base import find_networks
from chainrule.vision import Preprocess

BATCH, SIDE = 4, 32
TEXTS = ("a red circle", "a blue circle")
NOISE = Noise((3, 1, 4, 5)).stream("doodl/crops")


def draw(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@dataclass(frozen=True, eq=False)
class Apart:
    """A user's function that holds a number for each image."""

    wanted: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return (images.mean(dim=(1, 2, 3)) - self.wanted).square()

    def select(self, rows: list[int]) -> Apart:
        return Apart(self.wanted[rows])


class Tiny:
    """Every loss of the library, on small networks; loaded once."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
        network = layers.requires_grad_(False)
        self.classifier = ImageClassifier(network, ("a", "b", "c"), Preprocess((8, 8)))
        self.clip, self.features = load_clip(), load_backbone()
        head = nn.Linear(self.clip.width, 1).requires_grad_(False)
        self.rater = Rater(self.clip, head)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


def mask() -> Tensor:
    return (draw(9, 9) > 0.5).float()


MAKE: dict[str, Callable[[Tiny], Loss]] = {
    "classifier": lambda tiny: Classifier(tiny.classifier, "b"),
    "text": lambda tiny: ClipText(tiny.clip, "a red circle"),
    "image": lambda tiny: ClipImage(tiny.clip, [draw(3, 20, 20), draw(3, 9, 9)]),
    "direction": lambda tiny: ClipDirection(tiny.clip, draw(3, 9, 9), *TEXTS),
    "direction each": lambda tiny: ClipDirection(tiny.clip, draw(BATCH, 3, 9, 9), *TEXTS),
    "direction, given photos": lambda tiny: (
        Brightness(0.2) + 3.0 * ClipDirection(tiny.clip, None, *TEXTS)
    ).given(draw(BATCH, 3, 9, 9)),
    "aesthetic": lambda tiny: Aesthetic(tiny.rater, 10.0),
    "symmetry": lambda tiny: Symmetry(),
    "brightness": lambda tiny: Brightness(0.3),
    "picture": lambda tiny: Target(draw(3, 9, 9)),
    "picture of batch 1": lambda tiny: Target(draw(1, 3, 9, 9)),
    "picture each": lambda tiny: Target(draw(BATCH, 3, 9, 9)),
    "picture each, in a mask": lambda tiny: Target(draw(BATCH, 3, 9, 9), mask(), 1.0),
    "histogram": lambda tiny: ColourHistogram(draw(3, 9, 9)),
    "histogram each": lambda tiny: ColourHistogram(draw(BATCH, 3, 9, 9)),
    "perceptual": lambda tiny: Perceptual(tiny.features, draw(3, 9, 9)),
    "perceptual each": lambda tiny: Perceptual(tiny.features, draw(BATCH, 3, 9, 9)),
    "style": lambda tiny: Style(tiny.features, draw(3, 32, 32)),
    "call": lambda tiny: Call(lambda images: images.std(dim=(1, 2, 3))),
    "call each": lambda tiny: Call(Apart(draw(BATCH))),
    "sum": lambda tiny: Symmetry() + 0.5 * Target(draw(BATCH, 3, 9, 9)) + Brightness(0.1),
    "scaled sum": lambda tiny: 2.0 * (Symmetry() + Call(Apart(draw(BATCH)))),
    "crops": lambda tiny: Cutouts(Classifier(tiny.classifier, "b"), 3),
    "replayed crops": lambda tiny: Cutouts(Classifier(tiny.classifier, "b"), 3).replay(NOISE, 2),
    "crops of one seed": lambda tiny: Cutouts(Brightness(0.3), 2).replay(NOISE.select([1]), 2),
    "replayed crops, a picture each": lambda tiny: (
        Brightness(0.2) + 3.0 * Cutouts(Target(draw(BATCH, 3, 9, 9)), 3)
    ).replay(NOISE, 2),
}
ROWS = st.lists(st.integers(0, BATCH - 1), min_size=1, max_size=BATCH)


@pytest.mark.parametrize("name", MAKE)
def test_selecting_commutes_with_judging(tiny: Tiny, name: str) -> None:
    loss, images = MAKE[name](tiny), draw(BATCH, 3, SIDE, SIDE)
    expected = loss.terms(images)

    @settings(max_examples=6, deadline=None, derandomize=True)
    @given(ROWS)
    def check(rows: list[int]) -> None:
        found = loss.select(rows).terms(images[rows])
        torch.testing.assert_close(found, expected[:, rows], atol=1e-6, rtol=1e-5)

    check()


@pytest.mark.parametrize(
    "name", ["picture each", "perceptual each", "call each", "histogram each", "direction each"]
)
def test_each_image_has_a_reference_of_its_own(tiny: Tiny, name: str) -> None:
    loss, images = MAKE[name](tiny), draw(1, 3, SIDE, SIDE).expand(BATCH, -1, -1, -1)
    assert len(set(loss(images).tolist())) == BATCH


def test_networks_are_those_that_are_asked(tiny: Tiny) -> None:
    clip, guide = tiny.clip.network, tiny.classifier.network
    assert Symmetry().networks == Target(draw(3, 9, 9)).networks == ()
    assert Aesthetic(tiny.rater, 1.0).networks == (clip, tiny.rater.head)
    assert Perceptual(tiny.features, draw(3, 9, 9)).networks == tiny.features.networks
    both = 0.5 * ClipText(tiny.clip, "a") + ClipText(tiny.clip, "b")
    assert Cutouts(both + Classifier(tiny.classifier, 0)).networks == (clip, guide)
    assert Call(guide).networks == (guide,)
    assert Call(lambda images: guide(images)[:, 0]).networks == ()
    assert find_networks(tiny.classifier) == (guide,)
