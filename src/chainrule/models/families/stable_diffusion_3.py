"""Stable Diffusion 3 and 3.5: flow matching, a transformer on latents, two CLIPs and maybe a T5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from chainrule.diffusion.denoiser import Conditioning, Flow
from chainrule.errors import UserError
from chainrule.models.autoencoder import read_autoencoder
from chainrule.models.backbone import Backbone
from chainrule.models.base import Model, Text
from chainrule.models.schedulers import read_flow_schedule
from chainrule.models.tokens import check_length, text_encoders

T5_TOKENS = 256
"""What diffusers' pipeline reads unless told otherwise."""


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `StableDiffusion3Pipeline` as a Model."""
    transformer = pipeline.transformer
    config, patch = transformer.config, transformer.config.patch_size
    codec = read_autoencoder(pipeline, config.in_channels, patch, config.sample_size, size)
    if max(codec.latent_shape[1:]) > config.pos_embed_max_size * patch:
        most = config.pos_embed_max_size * codec.multiple
        raise UserError(
            "images of this size are not possible",
            f"this model's sides have at most {most} pixels",
            "size",
        )
    tokens = prod(side // patch for side in codec.latent_shape[1:])
    schedule = read_flow_schedule(pipeline.scheduler, tokens)
    return Model(
        name=name,
        network=_Transformer(transformer, schedule, Flow()),
        codec=codec,
        text=_Encoders(pipeline),
        guidance_scale=7.0,
        device=transformer.device,
    )


@dataclass(frozen=True, eq=False)
class _Transformer(Backbone):
    """The conditioning is (text (B, tokens, D), pooled (B, D'))."""

    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, pooled = conditioning
        output: Tensor = self.module(
            x, timestep=t, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
        return output


@dataclass(frozen=True, eq=False)
class _Encoders(Text):
    """Without a T5 (which may be left out to save memory) its tokens are zeros, as in diffusers."""

    pipeline: Any

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return text_encoders(self.pipeline)

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        # of a longer prompt the CLIPs read the beginning and T5 all: that is how the family works
        tokenizer, limit = self.pipeline.tokenizer, None
        if self.pipeline.text_encoder_3 is not None:
            tokenizer, limit = self.pipeline.tokenizer_3, T5_TOKENS
        check_length(self.pipeline, tokenizer, prompts, limit)
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            device=self.pipeline.text_encoder.device,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_TOKENS,
        )
        return text, pooled
