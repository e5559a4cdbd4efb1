"""Stable Diffusion XL: two text encoders, a pooled embedding and the image's size beside the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning
from chainrule.models.base import Model, Text
from chainrule.models.families.base import (
    Backbone,
    autoencoder,
    check_length,
    guidance,
    narrowing,
    predicted,
    token_strings,
    variance_preserving,
)


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `StableDiffusionXLPipeline` as a Model."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    codec = autoencoder(pipeline, unet.config.in_channels, narrowing(unet), unet.config.sample_size, size)
    if codec.vae.dtype == torch.float16 and codec.vae.config.get("force_upcast", False):
        codec.vae.float()  # its activations leave the range of half precision
    return Model(
        name=name,
        network=_UNet(unet, variance_preserving(scheduler), predicted(scheduler), codec.factor),
        codec=codec,
        text=_TwoClips(pipeline),
        guidance_scale=5.0,
        device=unet.device,
        guidance=guidance(pipeline),
    )


@dataclass(frozen=True, eq=False)
class _UNet(Backbone):
    """The conditioning is (text (B, tokens, D), pooled (B, D'), and of consistency models the guidance scale)."""

    factor: int

    def ask(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, pooled, *scale = conditioning
        height, width = (side * self.factor for side in x.shape[-2:])
        # the size of the original, the corner of the crop, and the size that is wanted
        sizes = x.new_tensor([height, width, 0, 0, height, width]).expand(len(x), -1)
        added = {"text_embeds": pooled, "time_ids": sizes}
        told = {"encoder_hidden_states": text, "timestep_cond": scale[0] if scale else None}
        return self.module(x, t, **told, added_cond_kwargs=added).sample


@dataclass(frozen=True, eq=False)
class _TwoClips(Text):
    pipeline: Any

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        for tokenizer in (self.pipeline.tokenizer, self.pipeline.tokenizer_2):
            check_length(self.pipeline, tokenizer, prompts)
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=list(prompts),
            device=self.pipeline.text_encoder.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        if self.pipeline.config.force_zeros_for_empty_prompt:  # nothing said was trained as zeros
            said = torch.tensor([bool(prompt) for prompt in prompts], device=text.device)
            text, pooled = text * said[:, None, None], pooled * said[:, None]
        return text, pooled

    def tokens(self, prompt: str) -> list[str]:
        return token_strings(self.pipeline, self.pipeline.tokenizer, prompt)  # the other's are the same words
