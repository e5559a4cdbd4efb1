"""Flux.1: flow matching on packed latents, a CLIP's pooled embedding and a T5's tokens, guidance as an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning
from chainrule.models.base import DistilledGuidance, Model, Text, NoGuidance
from chainrule.models.families.base import FLOW, Backbone, autoencoder, check_length, flow_matching

PATCH = 2
"""The sides of a patch of latents that is packed into one token."""

TRAINING = 1000
"""The network takes sigma, not the timestep."""


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `FluxPipeline` as a Model. Flux.1 dev is guided by an input of the network, schnell not at all."""
    transformer = pipeline.transformer
    default = pipeline.default_sample_size
    codec = autoencoder(pipeline, transformer.config.in_channels // PATCH**2, PATCH, default, size)
    tokens = prod(side // PATCH for side in codec.latent_shape[1:])
    guided = transformer.config.guidance_embeds
    return Model(
        name=name,
        network=_Transformer(transformer, flow_matching(pipeline.scheduler, tokens, uniform=True), FLOW),
        codec=codec,
        text=_Encoders(pipeline),
        guidance_scale=3.5 if guided else 1.0,
        device=transformer.device,
        guidance=DistilledGuidance(lambda scale: torch.tensor([scale])) if guided else NoGuidance("it was distilled to need none"),
    )


@dataclass(frozen=True, eq=False)
class _Transformer(Backbone):
    """The conditioning is (text (B, tokens, D), pooled (B, D'), and the guidance scale (B,) if it is an input)."""

    def ask(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, pooled, *scale = conditioning
        rows, columns = (side // PATCH for side in x.shape[-2:])
        packed = self.module(
            hidden_states=pack(x),
            timestep=(t / TRAINING).to(x.dtype),
            guidance=scale[0] if scale else None,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=x.new_zeros(text.shape[1], 3),
            img_ids=_positions(rows, columns).to(x),
        ).sample
        return unpack(packed, rows, columns)


def pack(x: Tensor) -> Tensor:
    """Latents (B, C, h, w) as tokens (B, h w / 4, 4 C): each patch of 2x2 is one.

    >>> x = torch.randn(1, 3, 4, 6)
    >>> pack(x).shape, torch.equal(unpack(pack(x), 2, 3), x)
    (torch.Size([1, 6, 12]), True)
    """
    return torch.nn.functional.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `pack`, for so many rows and columns of patches."""
    return torch.nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)


def _positions(rows: int, columns: int) -> Tensor:
    """(0, row, column) of each token, (rows columns, 3)."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(float(rows)), torch.arange(float(columns)))


@dataclass(frozen=True, eq=False)
class _Encoders(Text):
    pipeline: Any

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        # of a longer prompt CLIP reads the beginning and T5 the whole: that is how the family works
        check_length(self.pipeline, self.pipeline.tokenizer_2, prompts, _T5_TOKENS)
        text, pooled, _ = self.pipeline.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            device=self.pipeline.text_encoder.device,
            max_sequence_length=_T5_TOKENS,
        )
        return text, pooled


_T5_TOKENS = 512
"""What diffusers' pipeline reads unless told otherwise."""
