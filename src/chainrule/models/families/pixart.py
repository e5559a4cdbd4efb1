"""PixArt-alpha and PixArt-Sigma: a diffusion transformer on latents, with a T5 for text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning
from chainrule.models.autoencoder import read_autoencoder
from chainrule.models.backbone import Backbone
from chainrule.models.base import Model
from chainrule.models.families.base import PipelineText
from chainrule.models.schedulers import read_parameterization, read_schedule
from chainrule.models.tokens import check_length, read_ids, token_strings

ALPHA_TOKENS, SIGMA_TOKENS = 120, 300
"""How many tokens of a prompt each reads."""


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `PixArtAlphaPipeline` or `PixArtSigmaPipeline` as a Model."""
    transformer, scheduler = pipeline.transformer, pipeline.scheduler
    config = transformer.config
    patch, sides = config.patch_size, config.sample_size
    codec = read_autoencoder(pipeline, config.in_channels, patch, sides, size)
    schedule, parameterization = read_schedule(scheduler), read_parameterization(scheduler)
    alpha = type(pipeline).__name__ == "PixArtAlphaPipeline"
    return Model(
        name=name,
        network=_Transformer(transformer, schedule, parameterization, codec.factor),
        codec=codec,
        text=_T5(pipeline, ALPHA_TOKENS if alpha else SIGMA_TOKENS),
        guidance_scale=4.5,
        device=transformer.device,
    )


@dataclass(frozen=True, eq=False)
class _Transformer(Backbone):
    """The conditioning is (text (B, tokens, D), which tokens are there (B, tokens))."""

    factor: int

    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, there = conditioning
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.module.use_additional_conditions:
            height, width = (side * self.factor for side in x.shape[-2:])
            sizes["resolution"] = x.new_tensor([height, width]).expand(len(x), -1)
            sizes["aspect_ratio"] = x.new_tensor([height / width]).expand(len(x), -1)
        output = self.module(
            x,
            encoder_hidden_states=text,
            encoder_attention_mask=there,
            timestep=t,
            added_cond_kwargs=sizes,
        ).sample
        # the rest, if any, is the learned variance, which deterministic chains do not use
        return output[:, : x.shape[1]]


@dataclass(frozen=True, eq=False)
class _T5(PipelineText):
    limit: int

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        check_length(self.pipeline, self.pipeline.tokenizer, prompts, self.limit)
        encoder = self.pipeline.text_encoder
        ids, there = read_ids(self.pipeline.tokenizer, [*map(_make_small, prompts)], self.limit)
        there = there.to(encoder.device)
        text = encoder(ids.to(encoder.device), attention_mask=there)[0]
        return text.to(encoder.dtype), there

    def tokens(self, prompt: str) -> list[str]:
        small = _make_small(prompt)
        return token_strings(self.pipeline, self.pipeline.tokenizer, small, self.limit)


def _make_small(prompt: str) -> str:
    """A prompt as the family was trained to read it."""
    return prompt.lower().strip()
