"""Networks on pixels: `UNet2DModel`, unconditional or conditioned on a class (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning
from chainrule.errors import UserError
from chainrule.models.autoencoder import latent_sides
from chainrule.models.backbone import Backbone
from chainrule.models.base import Codec, Model, NoGuidance, Text, clamp_with_gradient
from chainrule.models.schedulers import read_parameterization, read_schedule
from chainrule.models.tokens import class_number


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `DDPMPipeline` or `DDIMPipeline` as a Model.

    Without classes, the only prompt is the empty one. x0 is not clipped along the chain, whatever
    the scheduler says: clipping could not be undone, and would stop the gradient.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler
    config, classes = unet.config, unet.config.num_class_embeds
    if config.in_channels != 3:
        raise UserError(
            f"{name} draws images of {config.in_channels} channels",
            "only those of 3 (RGB) are supported",
            "model",
        )
    multiple = 2 ** (len(config.block_out_channels) - 1)
    sides = latent_sides(size, config.sample_size, 1, multiple)
    reason = "it was trained with its classes only" if classes else "it takes no prompt"
    return Model(
        name=name,
        network=_UNet(unet, read_schedule(scheduler), read_parameterization(scheduler)),
        codec=_Pixels((3, *sides), multiple),
        text=_Classes(classes, unet.device),
        guidance_scale=1.0,
        device=unet.device,
        guidance=NoGuidance(reason),
    )


@dataclass(frozen=True, eq=False)
class _UNet(Backbone):
    """The conditioning is (class (B,),), or nothing."""

    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        labels = conditioning[0] if conditioning else None
        output = self.module(x, t, class_labels=labels).sample
        # the rest, if any, is the learned variance, which deterministic chains do not use
        return output[:, : x.shape[1]]


@dataclass(frozen=True, eq=False)
class _Pixels(Codec):
    """Latents are the images themselves, in [-1, 1]."""

    latent_shape: tuple[int, int, int]
    multiple: int
    factor: int = 1

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        images = latents / 2 + 0.5
        return clamp_with_gradient(images) if clamp else images

    def encode(self, images: Tensor) -> Tensor:
        return images * 2 - 1


@dataclass(frozen=True, eq=False)
class _Classes(Text):
    count: int | None
    device: torch.device

    @property
    def example(self) -> str | None:
        return None if self.count is None else "0"

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        if self.count is not None:
            numbers = [class_number(prompt, {}, self.count) for prompt in prompts]
            return (torch.tensor(numbers, device=self.device),)
        if any(prompt.strip() for prompt in prompts):
            raise UserError(
                f"this model takes no prompt, not even {prompts[0]!r}", "omit it", "prompt"
            )
        return ()
