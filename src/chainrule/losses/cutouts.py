"""Random crops around any loss: DOODL's multi-crop augmentation (section 4.2, appendix C).

The side of each square crop is `smallest + u^cut_power (1 - smallest)` of the image's, u uniform, its place uniform.
The loss of an image is the mean over its crops.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.errors import UserError
from chainrule.losses.base import Loss, Scaled, Sum, Term
from chainrule.noise import Noise

ANY_NOISE = Noise((0,))
"""The crops of a loss that nobody replays."""


@dataclass(frozen=True)
class Cutouts(Loss):
    """`loss` averaged over `count` crops, each scaled back to the image's own size.

    The paper: 16 crops, `cut_power` 0.3, and crops of at least 224 of 512 pixels (`smallest`). Which crops is decided
    by `draw` of `noise`, whose seeds belong to the images in turn (a single seed to all of them): the same draw gives
    the same crops.
    """

    loss: Loss
    count: int = 16
    cut_power: float = 0.3
    smallest: float = 224 / 512
    noise: Noise = ANY_NOISE
    draw: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"{self.count} crops are not possible: choose 1 or more, or leave the crops away")
        if isinstance(self.loss, Cutouts):
            raise UserError("these are crops of crops: let the method crop (its `crops`), or the loss, but not both")

    @property
    def names(self) -> tuple[str, ...]:
        return self.loss.names

    def terms(self, images: Tensor) -> Tensor:
        noise = self.noise if len(self.noise.seeds) > 1 else Noise(self.noise.seeds * len(images))
        crops = [
            _crop(image, *row)
            for image, rows in zip(images, noise.uniform(self.draw, (self.count, 3)).tolist(), strict=True)
            for row in self._boxes(rows, image.shape[-2], image.shape[-1])
        ]
        of_crops = self.loss.terms(torch.stack(crops))
        return of_crops.unflatten(1, (len(images), self.count)).mean(dim=2)

    def replayed(self, noise: Noise, draw: int) -> Loss:
        return Cutouts(self.loss.replayed(noise, draw), self.count, self.cut_power, self.smallest, noise, draw)

    def _boxes(self, rows: list[list[float]], height: int, width: int) -> list[tuple[int, int, int]]:
        """(top, left, side) of each crop, in pixels."""
        whole = min(height, width)
        sides = [int(whole * (self.smallest + u**self.cut_power * (1 - self.smallest))) for u, _, _ in rows]
        return [
            (int(v * (height - side + 1)), int(w * (width - side + 1)), side)
            for side, (_, v, w) in zip(sides, rows, strict=True)
        ]


def cropped(loss: Loss, count: int, cut_power: float) -> Loss:
    """`loss` with its terms seeing `count` crops each, but for those that must see the whole image."""
    if isinstance(loss, Sum):
        return Sum(tuple(cropped(part, count, cut_power) for part in loss.parts))
    if isinstance(loss, Scaled):
        return cropped(loss.part, count, cut_power) * loss.weight
    return loss if isinstance(loss, Term) and loss.whole else Cutouts(loss, count, cut_power)


def _crop(image: Tensor, top: int, left: int, side: int) -> Tensor:
    part = image[None, :, top : top + side, left : left + side]
    size = (image.shape[-2], image.shape[-1])
    if (side, side) == size:
        return part[0]
    return functional.interpolate(part, size, mode="bilinear", antialias=True, align_corners=False)[0]
