"""Stable Diffusion XL: a U-Net on latents, two CLIPs, and the image's size beside the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.diffusion.denoiser import Conditioning
from chainrule.models.autoencoder import read_autoencoder
from chainrule.models.backbone import Backbone
from chainrule.models.base import Model, Text
from chainrule.models.families.base import read_downsampling, read_guidance
from chainrule.models.schedulers import read_parameterization, read_schedule
from chainrule.models.tokens import check_length, text_encoders, token_strings


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `StableDiffusionXLPipeline` as a Model."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    config, patch = unet.config, read_downsampling(unet)
    codec = read_autoencoder(pipeline, config.in_channels, patch, config.sample_size, size)
    if codec.vae.dtype == torch.float16 and codec.vae.config.get("force_upcast", False):
        codec.vae.float()  # its activations leave the range of half precision
    schedule, parameterization = read_schedule(scheduler), read_parameterization(scheduler)
    return Model(
        name=name,
        network=_UNet(unet, schedule, parameterization, codec.factor),
        codec=codec,
        text=_TwoClips(pipeline),
        guidance_scale=5.0,
        device=unet.device,
        guidance=read_guidance(pipeline),
    )


@dataclass(frozen=True, eq=False)
class _UNet(Backbone):
    """The conditioning is (text (B, tokens, D), pooled (B, D')).

    Consistency models add the scale's embedding.
    """

    factor: int

    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, pooled, *scale = conditioning
        height, width = (side * self.factor for side in x.shape[-2:])
        # the size of the original, the corner of the crop, and the size to make
        sizes = x.new_tensor([height, width, 0, 0, height, width]).expand(len(x), -1)
        output: Tensor = self.module(
            x,
            t,
            encoder_hidden_states=text,
            timestep_cond=scale[0] if scale else None,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        ).sample
        return output


@dataclass(frozen=True, eq=False)
class _TwoClips(Text):
    pipeline: Any

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return text_encoders(self.pipeline)

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        for tokenizer in (self.pipeline.tokenizer, self.pipeline.tokenizer_2):
            check_length(self.pipeline, tokenizer, prompts)
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=list(prompts),
            device=self.pipeline.text_encoder.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        if self.pipeline.config.force_zeros_for_empty_prompt:  # it was trained so
            given = torch.tensor([bool(prompt) for prompt in prompts], device=text.device)
            text, pooled = text * given[:, None, None], pooled * given[:, None]
        return text, pooled

    def tokens(self, prompt: str) -> list[str]:
        # the other tokenizer's are the same words
        return token_strings(self.pipeline, self.pipeline.tokenizer, prompt)
