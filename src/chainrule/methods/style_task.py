"""What a style is learnt on: prompts, seeds and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from chainrule.brief import Brief
from chainrule.losses.features import Features
from chainrule.memory import Plan
from chainrule.methods.base import PLAIN
from chainrule.models.base import Model

Samples = Sequence[tuple[str, int]]
"""Prompts and seeds."""


@dataclass(frozen=True, eq=False)
class StyleTask(Brief):
    """Each of some prompts with each of some seeds, in the style of a picture.

    Args:
        model: The checkpoint.
        prompts: What is drawn.
        seeds: With which noise.
        picture: (3, h, w) in [0, 1].
        style: What sees the style.
        content: What sees the content; in the paper, both are one VGG.
        plan: What is kept and rebuilt.
    """

    model: Model
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    picture: Tensor
    style: Features
    content: Features
    plan: Plan = PLAIN
    loss: None = None

    @property
    def samples(self) -> list[tuple[str, int]]:
        """All prompts with all seeds."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]

    @property
    def judges(self) -> tuple[nn.Module, ...]:
        """The networks that judge the images."""
        return (*self.style.networks, *self.content.networks)

    def under(self, plan: Plan) -> StyleTask:
        """This task with another plan."""
        return replace(self, plan=plan)
