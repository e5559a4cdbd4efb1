"""Towards the style of a picture, as a network sees it (Gatys, Ecker & Bethge 2016).

    style = mean over layers of |G - G'|^2 / |G'|^2,    G = F F^T / (C h w)

F (C, h w) are the features of one layer, of the image and of the picture. The layers' weights are
the paper's free choice: divided by |G'|^2, none drowns the others, and an image without any
features has style 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from chainrule.diffusion.guidance.semantic import gram
from chainrule.images import load_picture
from chainrule.losses.base import Term
from chainrule.losses.features import Features, FeaturesSpec, load_features


@dataclass(frozen=True, eq=False)
class Style(Term):
    """How far the Gram matrices of the image's features are from a picture's.

    Args:
        features: Who sees them.
        picture: The picture (3, h, w) in [0, 1], at its own size.
        name: What the loss is called.
    """

    features: Features
    picture: Tensor
    name: str = "style"

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.features.networks

    @cached_property
    def _wanted(self) -> list[Tensor]:
        with torch.no_grad():
            return [gram(layer) for layer in self.features(self.picture[None])]

    def __call__(self, images: Tensor) -> Tensor:
        wanted = [layer.to(images) for layer in self._wanted]
        pairs = zip(self.features(images), wanted, strict=True)
        off = [(gram(layer) - w).square().sum(dim=(1, 2)) / w.square().sum() for layer, w in pairs]
        return torch.stack(off).mean(dim=0)


class StyleSpec(FeaturesSpec):
    """That a network sees the style of a picture in the image."""

    hint: ClassVar[str] = "style=FILE"
    kind: Literal["style"] = "style"

    def load(self, device: str | torch.device = "cpu") -> Style:
        picture = load_picture(self.target).to(device)  # a wrong one is said at once
        return Style(load_features(self.features, device), picture)
