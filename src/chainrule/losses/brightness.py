"""Towards images of some brightness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.losses.base import LossSpec, Term

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Rec. 709's weights of red, green and blue."""


@dataclass(frozen=True)
class Brightness(Term):
    """The square distance of the mean luminance (Rec. 709) to `target` in [0, 1]."""

    target: float
    name = "brightness"
    whole = True

    def __call__(self, images: Tensor) -> Tensor:
        luminance = (images * images.new_tensor(LUMINANCE)[:, None, None]).sum(dim=1)
        return (luminance.mean(dim=(1, 2)) - self.target).square()


class BrightnessSpec(LossSpec):
    """That the image has a mean luminance."""

    hint: ClassVar[str] = "brightness=0.8"
    kind: Literal["brightness"] = "brightness"
    target: float = Field(ge=0, le=1, description="The luminance: 0 is black, 1 is white.")

    def load(self, device: str | torch.device = "cpu") -> Brightness:
        return Brightness(self.target)
