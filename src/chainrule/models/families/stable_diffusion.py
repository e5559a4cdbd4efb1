"""Stable Diffusion 1.x and 2.x, and latent consistency models: a U-Net on latents, one CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from chainrule.diffusion.denoiser import Conditioning
from chainrule.models.autoencoder import read_autoencoder
from chainrule.models.backbone import Backbone
from chainrule.models.base import Model, Text
from chainrule.models.families.base import read_downsampling, read_guidance
from chainrule.models.schedulers import read_parameterization, read_schedule
from chainrule.models.tokens import add_token, check_length, text_encoders, token_strings


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `StableDiffusionPipeline` or `LatentConsistencyModelPipeline` as a Model."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    config, patch = unet.config, read_downsampling(unet)
    return Model(
        name=name,
        network=_UNet(unet, read_schedule(scheduler), read_parameterization(scheduler)),
        codec=read_autoencoder(pipeline, config.in_channels, patch, config.sample_size, size),
        text=_Clip(pipeline),
        guidance_scale=7.5 if config.time_cond_proj_dim is None else 8.5,
        device=unet.device,
        guidance=read_guidance(pipeline),
    )


@dataclass(frozen=True, eq=False)
class _UNet(Backbone):
    """The conditioning is (text (B, tokens, D)) and, of consistency models, the scale (B, D')."""

    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, *scale = conditioning
        embedding = scale[0] if scale else None
        output: Tensor = self.module(
            x, t, encoder_hidden_states=text, timestep_cond=embedding
        ).sample
        return output


@dataclass(frozen=True, eq=False)
class _Clip(Text):
    pipeline: Any

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return text_encoders(self.pipeline)

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

    def with_token(self, word: str, vectors: Tensor) -> Text:
        return _Clip(add_token(self.pipeline, word, vectors))

    @property
    def pad_embedding(self) -> Tensor:
        weights: Tensor = self.pipeline.text_encoder.get_input_embeddings().weight
        return weights[self.pipeline.tokenizer.pad_token_id]
