"""Towards the content of a picture, as a network sees it (Gatys, Ecker & Bethge 2016).

    content = mean over layers of |F - F'|^2

F (C, h w) are the features of one layer, of the image and of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from chainrule.images import load_picture
from chainrule.losses.base import Term, match_pictures, select_picture
from chainrule.losses.features import Features, FeaturesSpec, load_features


@dataclass(frozen=True, eq=False)
class Perceptual(Term):
    """How far the image's features are from a picture's, at the image's own places.

    Args:
        features: Who sees them.
        picture: The picture (3, h, w) in [0, 1], or one for each image, (B, 3, h, w).
        name: What the loss is called.
    """

    features: Features
    picture: Tensor
    name: str = "perceptual"
    whole = True

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.features.networks

    def __call__(self, images: Tensor) -> Tensor:
        picture = match_pictures(self.picture, images)
        return _mean_square(self.features(images), self.features(picture))

    def select(self, rows: Sequence[int]) -> Perceptual:
        return replace(self, picture=select_picture(self.picture, rows))


class PerceptualSpec(FeaturesSpec):
    """That a network sees the content of a picture in the image."""

    hint: ClassVar[str] = "perceptual=FILE"
    kind: Literal["perceptual"] = "perceptual"

    def load(self, device: str | torch.device = "cpu") -> Perceptual:
        picture = load_picture(self.target).to(device)  # a wrong one is said at once
        return Perceptual(load_features(self.features, device), picture)


def _mean_square(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    pairs = zip(found, wanted, strict=True)
    return torch.stack([(f - w).square().mean(dim=(1, 2)) for f, w in pairs]).mean(dim=0)
