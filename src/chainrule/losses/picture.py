"""Towards the pixels of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.images import load_picture, resize_like
from chainrule.losses.base import PictureLossSpec, Term, match_pictures, select_picture


@dataclass(frozen=True, eq=False)
class Target(Term):
    """The mean distance to a picture, |difference|^`power`.

    Args:
        picture: The picture (3, h, w) in [0, 1], or one for each image, (B, 3, h, w). It is scaled
            to the image's size.
        mask: Where the distance counts, (h, w) from 0 to 1, scaled as well; None: everywhere.
        power: 2 for the square (L2), 1 for the absolute difference (L1).
        name: What the loss is called.
    """

    picture: Tensor
    mask: Tensor | None = None
    power: float = 2.0
    name: str = "picture"
    whole = True

    def __post_init__(self) -> None:
        if self.mask is None:
            return
        if self.mask.shape != self.picture.shape[-2:]:
            raise UserError(
                f"the mask is {_size(self.mask)} and the picture {_size(self.picture)}",
                "they must be the same size",
                "mask",
            )
        if not self.mask.any():
            raise UserError("the mask is empty", "mark the pixels that count with 1", "mask")

    def __call__(self, images: Tensor) -> Tensor:
        picture = match_pictures(self.picture, images)
        difference = (images - picture).abs() ** self.power
        if self.mask is None:
            return difference.mean(dim=(1, 2, 3))
        mask = resize_like(self.mask[None, None], images)
        return (difference.mean(dim=1, keepdim=True) * mask).sum(dim=(1, 2, 3)) / mask.sum()

    def select(self, rows: Sequence[int]) -> Target:
        return replace(self, picture=select_picture(self.picture, rows))


class PictureSpec(PictureLossSpec):
    """That the image has the pixels of a picture."""

    hint: ClassVar[str] = "picture=FILE"
    kind: Literal["picture"] = "picture"

    def load(self, device: str | torch.device = "cpu") -> Target:
        return Target(load_picture(self.target))


def _size(value: Tensor) -> str:
    return f"{value.shape[-1]}x{value.shape[-2]}"
