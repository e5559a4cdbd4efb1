"""Stable Diffusion 1.x and 2.x, and latent consistency models: a U-Net on latents, one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    with_word,
)


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `StableDiffusionPipeline` or `LatentConsistencyModelPipeline` as a Model."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    return Model(
        name=name,
        network=_UNet(unet, variance_preserving(scheduler), predicted(scheduler)),
        codec=autoencoder(pipeline, unet.config.in_channels, narrowing(unet), unet.config.sample_size, size),
        text=_Clip(pipeline),
        guidance_scale=7.5 if unet.config.time_cond_proj_dim is None else 8.5,
        device=unet.device,
        guidance=guidance(pipeline),
    )


@dataclass(frozen=True, eq=False)
class _UNet(Backbone):
    """The conditioning is (text (B, tokens, D), and for consistency models the guidance scale's embedding)."""

    def ask(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, *scale = conditioning
        return self.module(x, t, encoder_hidden_states=text, timestep_cond=scale[0] if scale else None).sample


@dataclass(frozen=True, eq=False)
class _Clip(Text):
    pipeline: Any

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        check_length(self.pipeline, self.pipeline.tokenizer, prompts)
        text, _ = self.pipeline.encode_prompt(
            prompt=list(prompts),
            device=self.pipeline.text_encoder.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return (text,)

    def tokens(self, prompt: str) -> list[str]:
        return token_strings(self.pipeline, self.pipeline.tokenizer, prompt)

    def taught(self, word: str, vectors: Tensor) -> Text:
        return _Clip(with_word(self.pipeline, word, vectors))

    @property
    def blank(self) -> Tensor:
        weights: Tensor = self.pipeline.text_encoder.get_input_embeddings().weight
        return weights[self.pipeline.tokenizer.pad_token_id]
