"""DiT: a diffusion transformer on latents, conditioned on a class (Peebles & Xie 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning
from chainrule.errors import UserError
from chainrule.models.autoencoder import read_autoencoder
from chainrule.models.backbone import Backbone
from chainrule.models.base import Model, Text
from chainrule.models.schedulers import read_parameterization, read_schedule
from chainrule.models.tokens import class_number


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `DiTPipeline` as a Model.

    A prompt is the name of a class or its number; an empty one is no class.
    """
    transformer, scheduler = pipeline.transformer, pipeline.scheduler
    config = transformer.config
    patch, sides = config.patch_size, config.sample_size
    return Model(
        name=name,
        network=_Transformer(
            transformer, read_schedule(scheduler), read_parameterization(scheduler)
        ),
        codec=read_autoencoder(pipeline, config.in_channels, patch, sides, size),
        text=_Classes(pipeline.labels, config.num_embeds_ada_norm, transformer.device),
        guidance_scale=4.0,
        device=transformer.device,
    )


@dataclass(frozen=True, eq=False)
class _Transformer(Backbone):
    """The conditioning is (class (B,),)."""

    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        (labels,) = conditioning
        if x.shape[-2] != x.shape[-1]:
            raise UserError(
                "a DiT knows square images only", "crop the photo, or name a square size", "size"
            )
        output = self.module(x, timestep=t, class_labels=labels).sample
        # the rest, if any, is the learned variance, which deterministic chains do not use
        return output[:, : x.shape[1]]


@dataclass(frozen=True, eq=False)
class _Classes(Text):
    labels: Mapping[str, int]
    count: int
    device: torch.device

    @property
    def example(self) -> str:
        return next(iter(self.labels), "0")

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        numbers = [
            class_number(prompt, self.labels, self.count) if prompt else self.count
            for prompt in prompts
        ]
        return (torch.tensor(numbers, device=self.device),)
