"""Towards the colours of a picture, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from chainrule.images import load_picture
from chainrule.losses.base import PictureLossSpec, Term, match_pictures, select_picture


@dataclass(frozen=True, eq=False)
class ColourHistogram(Term):
    """The earth mover's distance between the colours of image and picture, mean over channels.

    In one dimension it is the mean distance between sorted values: exact and differentiable.

    Args:
        picture: The picture (3, h, w) in [0, 1], or one for each image, (B, 3, h, w).
        name: What the loss is called.
    """

    picture: Tensor
    name: str = "histogram"
    whole = True

    def __call__(self, images: Tensor) -> Tensor:
        picture = match_pictures(self.picture, images)
        wanted = picture.flatten(2).sort(dim=2).values
        return (images.flatten(2).sort(dim=2).values - wanted).abs().mean(dim=(1, 2))

    def select(self, rows: Sequence[int]) -> ColourHistogram:
        return replace(self, picture=select_picture(self.picture, rows))


class HistogramSpec(PictureLossSpec):
    """That the image has the colours of a picture, wherever they are."""

    hint: ClassVar[str] = "histogram=FILE"
    kind: Literal["histogram"] = "histogram"

    def load(self, device: str | torch.device = "cpu") -> ColourHistogram:
        return ColourHistogram(load_picture(self.target))
