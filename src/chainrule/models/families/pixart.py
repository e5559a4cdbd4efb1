"""PixArt-alpha and PixArt-Sigma: a diffusion transformer on latents, told by a T5."""

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
    predicted,
    token_strings,
    variance_preserving,
)


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `PixArtAlphaPipeline` or `PixArtSigmaPipeline` as a Model."""
    transformer, scheduler = pipeline.transformer, pipeline.scheduler
    config = transformer.config
    codec = autoencoder(pipeline, config.in_channels, config.patch_size, config.sample_size, size)
    tokens = 120 if type(pipeline).__name__ == "PixArtAlphaPipeline" else 300
    return Model(
        name=name,
        network=_Transformer(transformer, variance_preserving(scheduler), predicted(scheduler), codec.factor),
        codec=codec,
        text=_T5(pipeline, tokens),
        guidance_scale=4.5,
        device=transformer.device,
    )


@dataclass(frozen=True, eq=False)
class _Transformer(Backbone):
    """The conditioning is (text (B, tokens, D), which of the tokens are there (B, tokens))."""

    factor: int

    def ask(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, there = conditioning
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.module.use_additional_conditions:
            height, width = (side * self.factor for side in x.shape[-2:])
            added["resolution"] = x.new_tensor([height, width]).expand(len(x), -1)
            added["aspect_ratio"] = x.new_tensor([height / width]).expand(len(x), -1)
        f = self.module(
            x, encoder_hidden_states=text, encoder_attention_mask=there, timestep=t, added_cond_kwargs=added
        ).sample
        return f[:, : x.shape[1]]  # the rest, if any, is the learned variance, which deterministic chains do not use


@dataclass(frozen=True, eq=False)
class _T5(Text):
    pipeline: Any
    limit: int

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        check_length(self.pipeline, self.pipeline.tokenizer, prompts, self.limit)
        text, there, _, _ = self.pipeline.encode_prompt(
            prompt=list(prompts),
            do_classifier_free_guidance=False,
            device=self.pipeline.text_encoder.device,
            max_sequence_length=self.limit,
        )
        return text, there

    def tokens(self, prompt: str) -> list[str]:
        return token_strings(self.pipeline, self.pipeline.tokenizer, prompt, self.limit)
