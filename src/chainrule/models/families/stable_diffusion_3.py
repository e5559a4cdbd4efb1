"""Stable Diffusion 3 and 3.5: flow matching, a transformer on latents, two CLIPs and (or without) a T5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning
from chainrule.errors import UserError
from chainrule.models.base import Model, Text
from chainrule.models.families.base import FLOW, Backbone, autoencoder, check_length, flow_matching


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `StableDiffusion3Pipeline` as a Model."""
    transformer = pipeline.transformer
    config, patch = transformer.config, transformer.config.patch_size
    codec = autoencoder(pipeline, config.in_channels, patch, config.sample_size, size)
    if max(codec.latent_shape[1:]) > config.pos_embed_max_size * patch:
        most = config.pos_embed_max_size * codec.multiple
        raise UserError(f"images of this size are not possible: this model's sides have at most {most} pixels")
    tokens = prod(side // patch for side in codec.latent_shape[1:])
    return Model(
        name=name,
        network=_Transformer(transformer, flow_matching(pipeline.scheduler, tokens), FLOW),
        codec=codec,
        text=_Encoders(pipeline),
        guidance_scale=7.0,
        device=transformer.device,
    )


@dataclass(frozen=True, eq=False)
class _Transformer(Backbone):
    """The conditioning is (text (B, tokens, D), pooled (B, D'))."""

    def ask(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, pooled = conditioning
        return self.module(x, timestep=t, encoder_hidden_states=text, pooled_projections=pooled).sample


@dataclass(frozen=True, eq=False)
class _Encoders(Text):
    """Without a T5 (it may be left out to save memory), its tokens are zeros, as in diffusers."""

    pipeline: Any

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        # of a longer prompt the CLIPs read the beginning and T5 the whole: that is how the family works
        tokenizer, limit = self.pipeline.tokenizer, None
        if self.pipeline.text_encoder_3 is not None:
            tokenizer, limit = self.pipeline.tokenizer_3, _T5_TOKENS
        check_length(self.pipeline, tokenizer, prompts, limit)
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            device=self.pipeline.text_encoder.device,
            do_classifier_free_guidance=False,
            max_sequence_length=_T5_TOKENS,
        )
        return text, pooled


_T5_TOKENS = 256
"""What diffusers' pipeline reads unless told otherwise."""
