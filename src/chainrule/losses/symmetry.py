"""Towards images that are their own mirror images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.losses.base import LossSpec, Term


@dataclass(frozen=True)
class Symmetry(Term):
    """The mean square difference between the image and its mirror image (left and right)."""

    name = "symmetry"
    whole = True

    def __call__(self, images: Tensor) -> Tensor:
        return (images - images.flip(-1)).square().mean(dim=(1, 2, 3))


class SymmetrySpec(LossSpec):
    """That the image is its own mirror image, left and right."""

    hint: ClassVar[str] = "symmetry"
    kind: Literal["symmetry"] = "symmetry"

    @classmethod
    def parse_target(cls, text: str) -> dict[str, Any]:
        if text:
            raise UserError(f"symmetry takes nothing, and {text!r} was given", f"write {cls.hint}")
        return {}

    def load(self, device: str | torch.device = "cpu") -> Symmetry:
        return Symmetry()
