"""Text guidance: towards what a text says, by CLIP (DOODL section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chainrule.bundled import warn_unknown_words
from chainrule.losses.base import Loss, LossSpec, Term, sum_losses
from chainrule.losses.clip import Clip, Clips, load_clip, spherical_distance


@dataclass(frozen=True, eq=False)
class ClipText(Term):
    """How far the image is from what a text says.

    Args:
        clip: Who compares them.
        text: What the image should be like.
    """

    clip: Clip
    text: str

    def __post_init__(self) -> None:
        _ = self.target
        if self.clip.known:
            warn_unknown_words([self.text], self.clip.known, who=self.clip.name)

    @property
    def name(self) -> str:
        return f"{self.clip.name} text={self.text}"

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.clip.networks

    @cached_property
    def target(self) -> Tensor:
        """The text's embedding, (1, D)."""
        return self.clip.embed_texts([self.text])

    def __call__(self, images: Tensor) -> Tensor:
        return spherical_distance(self.clip.embed_images(images), self.target.to(images))


class TextSpec(LossSpec):
    """That the image is like a text, to one CLIP or several."""

    hint: ClassVar[str] = "text=WORDS"
    kind: Literal["text"] = "text"
    target: str = Field(description="What the image should be like.")
    clip: Clips = Field(
        {"": 1.0},
        description="Any transformers CLIPs or SigLIPs with weights; that of the model's world.",
    )

    def load(self, device: str | torch.device = "cpu") -> Loss:
        clips = self.clip.items()
        return sum_losses(
            [w * ClipText(load_clip(name or None, device), self.target) for name, w in clips]
        )
