"""Stable Diffusion 3 and 3.5: flow matching, a transformer on latents, two CLIPs and maybe a T5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from chainrule.diffusion.denoiser import Conditioning, Flow
from chainrule.errors import UserError
from chainrule.models.autoencoder import read_autoencoder
from chainrule.models.backbone import Backbone
from chainrule.models.base import Model
from chainrule.models.families.base import PipelineText
from chainrule.models.schedulers import read_flow_schedule
from chainrule.models.tokens import check_length, find_ends_by_name, read_ids

T5_TOKENS = 256
"""What diffusers' pipeline reads unless told otherwise."""


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `StableDiffusion3Pipeline` as a Model."""
    find_ends_by_name(pipeline)  # its text encoders are copies
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
class _Encoders(PipelineText):
    """Without a T5 (which may be left out to save memory) its tokens are zeros, as in diffusers."""

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        # of a longer prompt the CLIPs read the beginning and T5 all: that is how the family works
        pipeline = self.pipeline
        tokenizer, limit = pipeline.tokenizer, None
        if pipeline.text_encoder_3 is not None:
            tokenizer, limit = pipeline.tokenizer_3, T5_TOKENS
        check_length(pipeline, tokenizer, prompts, limit)
        parts, pooled = [], []
        for tokenizer, encoder in (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        ):
            ids, _ = read_ids(tokenizer, prompts, pipeline.tokenizer_max_length)
            read = encoder(ids.to(encoder.device), output_hidden_states=True)
            parts.append(read.hidden_states[-2])
            pooled.append(read[0])
        long = self._read_long(prompts, parts[0])
        short = torch.cat(parts, dim=-1)
        short = pad(short, (0, long.shape[-1] - short.shape[-1]))
        return torch.cat([short, long], dim=-2), torch.cat(pooled, dim=-1)

    def _read_long(self, prompts: Sequence[str], like: Tensor) -> Tensor:
        """What T5 makes of B prompts, (B, tokens, D)."""
        encoder, tokenizer = self.pipeline.text_encoder_3, self.pipeline.tokenizer_3
        if encoder is None:
            width = self.pipeline.transformer.config.joint_attention_dim
            return like.new_zeros(len(prompts), T5_TOKENS, width)
        ids, _ = read_ids(tokenizer, prompts, T5_TOKENS)
        text: Tensor = encoder(ids.to(encoder.device))[0].to(encoder.dtype)
        return text
