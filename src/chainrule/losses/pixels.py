"""Losses on the pixels themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from chainrule.errors import UserError
from chainrule.losses.base import Term
from chainrule.vision import scaled


@dataclass(frozen=True)
class Symmetry(Term):
    """The mean square difference between the image and its mirror image (left and right)."""

    name = "symmetry"
    whole = True

    def __call__(self, images: Tensor) -> Tensor:
        return (images - images.flip(-1)).square().mean(dim=(1, 2, 3))


@dataclass(frozen=True, eq=False)
class Target(Term):
    """The mean distance to `picture` (3, h, w), |difference|^`power`, where `mask` (h, w) is 1 (None: everywhere).

    `power` 2 is the square (L2), 1 the absolute difference (L1). Picture and mask are scaled to the image's size. There
    may be a picture for each image, (B, 3, h, w).
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
                f"the mask is {_size(self.mask)} and the picture {_size(self.picture)}: make them the same size"
            )
        if not self.mask.any():
            raise UserError("the mask is empty: mark the pixels that count with 1")

    def __call__(self, images: Tensor) -> Tensor:
        difference = (images - scaled(self.picture.reshape(-1, *self.picture.shape[-3:]), images)).abs() ** self.power
        if self.mask is None:
            return difference.mean(dim=(1, 2, 3))
        mask = scaled(self.mask[None, None], images)
        return (difference.mean(dim=1, keepdim=True) * mask).sum(dim=(1, 2, 3)) / mask.sum()


@dataclass(frozen=True)
class Brightness(Term):
    """The square distance of the mean luminance (Rec. 709 weights) to `target` in [0, 1]."""

    target: float
    name = "brightness"
    whole = True

    def __call__(self, images: Tensor) -> Tensor:
        luminance = (images * images.new_tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(dim=1)
        return (luminance.mean(dim=(1, 2)) - self.target).square()


@dataclass(frozen=True, eq=False)
class ColourHistogram(Term):
    """The earth mover's distance between the colour histograms of the image and of `picture`, averaged over channels.

    In one dimension it is the mean distance between sorted values, which is exact and differentiable.
    """

    picture: Tensor
    name: str = "histogram"
    whole = True

    def __call__(self, images: Tensor) -> Tensor:
        wanted = scaled(self.picture.reshape(-1, *self.picture.shape[-3:]), images).flatten(2).sort(dim=2).values
        return (images.flatten(2).sort(dim=2).values - wanted).abs().mean(dim=(1, 2))


def _size(value: Tensor) -> str:
    return f"{value.shape[-1]}x{value.shape[-2]}"
