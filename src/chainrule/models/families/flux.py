"""Flux.1: flow matching on packed latents, with a CLIP's pooled embedding and a T5's tokens.

Of the two models, dev takes the guidance scale as an input, and schnell takes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.diffusion.denoiser import Conditioning, Flow
from chainrule.models.autoencoder import read_autoencoder
from chainrule.models.backbone import Backbone
from chainrule.models.base import DistilledGuidance, Guidance, Model, NoGuidance
from chainrule.models.families.base import PipelineText
from chainrule.models.schedulers import read_flow_schedule
from chainrule.models.tokens import check_length, find_ends_by_name, read_ids

PATCH = 2
"""The sides of a patch of latents that is packed into one token."""

TRAINING_STEPS = 1000
"""The network takes sigma, not the timestep."""

T5_TOKENS = 512
"""What diffusers' pipeline reads unless told otherwise."""


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `FluxPipeline` as a Model."""
    find_ends_by_name(pipeline)  # its text encoders are copies
    transformer = pipeline.transformer
    channels, sides = transformer.config.in_channels // PATCH**2, pipeline.default_sample_size
    # it learnt from sizes of all kinds: with one that is named, the pipeline's own means nothing
    codec = read_autoencoder(pipeline, channels, PATCH, None if size else sides, size)
    tokens = prod(side // PATCH for side in codec.latent_shape[1:])
    schedule = read_flow_schedule(pipeline.scheduler, tokens, uniform=True)
    guided = transformer.config.guidance_embeds
    guidance: Guidance = NoGuidance("it was distilled to need none")
    if guided:
        guidance = DistilledGuidance(_embed_scale)
    return Model(
        name=name,
        network=_Transformer(transformer, schedule, Flow()),
        codec=codec,
        text=_Encoders(pipeline),
        guidance_scale=3.5 if guided else 1.0,
        device=transformer.device,
        guidance=guidance,
    )


def _embed_scale(scale: float) -> Tensor:
    """The network embeds it by itself."""
    return torch.tensor([scale])


@dataclass(frozen=True, eq=False)
class _Transformer(Backbone):
    """The conditioning is (text (B, tokens, D), pooled (B, D')) and, if guided, the scale (B,)."""

    @property
    def channels(self) -> int:
        return int(self.module.config.in_channels) // PATCH**2

    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, pooled, *scale = conditioning
        rows, columns = (side // PATCH for side in x.shape[-2:])
        packed = self.module(
            hidden_states=pack(x),
            timestep=(t / TRAINING_STEPS).to(x.dtype),
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
    return nn.functional.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `pack`.

    Args:
        tokens: (B, rows columns, 4 C).
        rows: How many patches an image is high.
        columns: How many it is wide.

    Returns:
        Latents (B, C, h, w).
    """
    patches = tokens.transpose(1, 2).unflatten(2, (rows, columns))
    return nn.functional.pixel_shuffle(patches, PATCH)


def _positions(rows: int, columns: int) -> Tensor:
    """(0, row, column) of each token, (rows columns, 3)."""
    ranges = (torch.arange(float(rows)), torch.arange(float(columns)))
    return torch.cartesian_prod(torch.zeros(1), *ranges)


@dataclass(frozen=True, eq=False)
class _Encoders(PipelineText):
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        # of a longer prompt CLIP reads the beginning and T5 all: that is how the family works
        pipeline = self.pipeline
        clip, t5 = pipeline.text_encoder, pipeline.text_encoder_2
        check_length(pipeline, pipeline.tokenizer_2, prompts, T5_TOKENS)
        short, _ = read_ids(pipeline.tokenizer, prompts, pipeline.tokenizer_max_length)
        long, _ = read_ids(pipeline.tokenizer_2, prompts, T5_TOKENS)
        pooled = clip(short.to(clip.device)).pooler_output
        return t5(long.to(t5.device))[0].to(t5.dtype), pooled
