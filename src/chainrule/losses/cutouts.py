"""Random crops around any loss: DOODL's multi-crop augmentation (section 4.2, appendix C).

    side = smallest + u^cut_power (1 - smallest)        of the image's; u, and the place, uniform

The loss of an image is the mean over its crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from chainrule.errors import UserError
from chainrule.losses.base import Loss, Scaled, Sum, Term, check_terms
from chainrule.noise import Noise, Stream


@dataclass(frozen=True)
class Cutouts(Loss):
    """A loss averaged over random square crops, each scaled back to the image's own size.

    The same draw of the same stream gives the same crops. The paper's are 16, of at least 224 of
    512 pixels, with the power 0.3.

    Args:
        loss: What judges each crop.
        count: How many crops of each image, 1 or more.
        cut_power: The smaller, the larger are most crops.
        smallest: The side of the smallest crop, as a share of the image's.
        noise: Which crops: a seed for each image, or one for all; None: the same whenever asked.
        k: Which draw of `noise`.
    """

    loss: Loss
    count: int = 16
    cut_power: float = 0.3
    smallest: float = 224 / 512
    noise: Stream | None = None
    k: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(
                f"{self.count} crops are not possible", "choose 1 or more, or omit the crops"
            )
        if isinstance(self.loss, Cutouts):
            raise UserError(
                "these are crops of crops",
                "let the method crop (its `crops`), or the loss, but not both",
            )

    @property
    def names(self) -> tuple[str, ...]:
        return self.loss.names

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.loss.networks

    def terms(self, images: Tensor) -> Tensor:
        crops = [
            _crop(image, *box)
            for image, rows in zip(images, self._draw(len(images)).tolist(), strict=True)
            for box in self._boxes(rows, image.shape[-2], image.shape[-1])
        ]
        whose = [i for i in range(len(images)) for _ in range(self.count)]
        of_crops = check_terms(self.loss.select(whose), torch.stack(crops))
        return of_crops.unflatten(1, (len(images), self.count)).mean(dim=2)

    def replay(self, noise: Stream, k: int) -> Loss:
        return replace(self, loss=self.loss.replay(noise, k), noise=noise, k=k)

    def select(self, rows: Sequence[int]) -> Loss:
        return replace(self, loss=self.loss.select(rows), noise=_select(self.noise, rows))

    def given(self, photos: Tensor) -> Loss:
        return replace(self, loss=self.loss.given(photos))

    def _draw(self, batch: int) -> Tensor:
        """What decides about each crop of each image, (B, count, 3)."""
        shape = (self.count, 3)
        if self.noise is None:
            drawn = Noise((0,)).uniform(0, shape)
        else:
            drawn = self.noise.uniform(self.k, shape)
        if len(drawn) not in (1, batch):
            raise UserError(
                f"the crops are those of {len(drawn)} images, and there are {batch}",
                "select the loss of these images",
            )
        return drawn.expand(batch, *shape)

    def _boxes(
        self, rows: list[list[float]], height: int, width: int
    ) -> list[tuple[int, int, int]]:
        """(top, left, side) of each crop, in pixels."""
        whole, power, spread = min(height, width), self.cut_power, 1 - self.smallest
        sides = [int(whole * (self.smallest + u**power * spread)) for u, _, _ in rows]
        return [
            (int(v * (height - side + 1)), int(w * (width - side + 1)), side)
            for side, (_, v, w) in zip(sides, rows, strict=True)
        ]


def crop(loss: Loss, count: int, cut_power: float) -> Loss:
    """A loss whose terms see crops, but for those that must see the whole image.

    Args:
        loss: The loss.
        count: How many crops of each image, 1 or more.
        cut_power: The smaller, the larger are most crops.
    """
    if isinstance(loss, Sum):
        return Sum(tuple(crop(part, count, cut_power) for part in loss.parts))
    if isinstance(loss, Scaled):
        return crop(loss.part, count, cut_power) * loss.weight
    return loss if isinstance(loss, Term) and loss.whole else Cutouts(loss, count, cut_power)


def _crop(image: Tensor, top: int, left: int, side: int) -> Tensor:
    part = image[None, :, top : top + side, left : left + side]
    size = (image.shape[-2], image.shape[-1])
    if (side, side) == size:
        return part[0]
    return functional.interpolate(part, size, mode="bilinear", antialias=True, align_corners=False)[
        0
    ]


def _select(noise: Stream | None, rows: Sequence[int]) -> Stream | None:
    """The noise of some of the images; that of one seed is everyone's."""
    return noise if noise is None or len(noise.seeds) == 1 else noise.select(rows)
