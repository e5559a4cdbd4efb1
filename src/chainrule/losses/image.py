"""Personalisation: towards what pictures show, by CLIP (DOODL section 5.4)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from chainrule.errors import UserError
from chainrule.images import load_picture
from chainrule.losses.base import Loss, LossSpec, Term, absolute, sum_losses
from chainrule.losses.clip import Clip, Clips, load_clip, spherical_distance
from chainrule.specs import File

MOST_COMMAS = 8
"""In so many parts of a list, one after another, the name of one file is looked for."""


@dataclass(frozen=True, eq=False)
class ClipImage(Term):
    """How far the image is from the mean embedding of pictures.

    Args:
        clip: Who compares them.
        pictures: What the image should be like, one or more (3, h, w) in [0, 1].
    """

    clip: Clip
    pictures: Sequence[Tensor]

    def __post_init__(self) -> None:
        if len(self.pictures) == 0:
            raise UserError("there are no pictures for the image to be like", "name at least one")

    @property
    def name(self) -> str:
        return f"{self.clip.name} image"

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.clip.networks

    @cached_property
    def target(self) -> Tensor:
        """The pictures' mean embedding, (1, D)."""
        device = self.clip.network.device
        with torch.no_grad():
            each = [self.clip.embed_images(picture[None].to(device)) for picture in self.pictures]
        return normalize(torch.cat(each).mean(dim=0, keepdim=True), dim=1)

    def __call__(self, images: Tensor) -> Tensor:
        return spherical_distance(self.clip.embed_images(images), self.target.to(images))


class ImageSpec(LossSpec):
    """That the image shows what pictures show, to one CLIP or several."""

    hint: ClassVar[str] = "image=FILE,FILE"
    kind: Literal["image"] = "image"
    target: tuple[File, ...] = Field(
        min_length=1, description="The pictures that the image should be like."
    )
    clip: Clips = Field(
        {"": 1.0},
        description="Any transformers CLIPs or SigLIPs with weights; that of the model's world.",
    )

    @classmethod
    def parse_target(cls, text: str) -> dict[str, Any]:
        return {"target": _split_files(text)}

    def load(self, device: str | torch.device = "cpu") -> Loss:
        pictures, clips = [load_picture(path) for path in self.target], self.clip.items()
        return sum_losses(
            [w * ClipImage(load_clip(name or None, device), pictures) for name, w in clips]
        )


def _split_files(text: str) -> tuple[Path, ...]:
    """The files of a list with commas; a comma may be in the name of a file that is there.

    Args:
        text: As it was typed: `a.png,b.png`, or `red, white.png` of one file.
    """
    parts, files = text.split(","), []
    while parts:
        joined = (",".join(parts[:n]) for n in range(min(len(parts), MOST_COMMAS), 1, -1))
        name = next((each for each in joined if os.path.isfile(absolute(each))), parts[0])
        parts = parts[name.count(",") + 1 :]
        files.append(absolute(name))
    return tuple(files)
