"""Stable Diffusion 1.x and 2.x, and latent consistency models: a U-Net on latents, one CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from chainrule.bundled import SCENES, warn_unknown_words
from chainrule.diffusion.denoiser import Conditioning
from chainrule.models.backbone import Backbone
from chainrule.models.base import Model, Text
from chainrule.models.families.base import PipelineText, check_unet, read_codec, read_guidance
from chainrule.models.inpainting import Inpainting
from chainrule.models.schedulers import read_parameterization, read_schedule
from chainrule.models.tokens import (
    chunk_ids,
    encode_chunks,
    join_chunks,
    lengthen,
    token_strings,
)


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `StableDiffusionPipeline`, one of those with the same parts, as a Model."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    config = unet.config
    check_unet(unet, name)
    codec, picture = read_codec(pipeline, size)
    network: Backbone = _UNet(unet, read_schedule(scheduler), read_parameterization(scheduler))
    if picture is not None:
        network = Inpainting(unet, network.schedule, network.parameterization, network)
    return Model(
        name=name,
        network=network,
        codec=codec,
        text=_Clip(pipeline),
        guidance_scale=7.5 if config.time_cond_proj_dim is None else 8.5,
        device=unet.device,
        guidance=read_guidance(pipeline),
        picture=picture,
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
class _Clip(PipelineText):
    """Args:
    known: All words that the model has seen, if they are few.
    example: A prompt that it knows.
    """

    known: tuple[str, ...] = ()
    example: str | None = SCENES.example

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        (ids,) = chunk_ids(self.pipeline, (tokenizer,), prompts)
        if self.known:
            warn_unknown_words(prompts, self.known, self.words)
        return (join_chunks(encode_chunks(encoder, tokenizer, ids)[0], ids),)

    def knowing(self, word: str) -> Text:
        return replace(self, known=(*self.known, *word.lower().split())) if self.known else self

    def match(self, *conditionings: Conditioning) -> tuple[Conditioning, ...]:
        most = max(text.shape[1] for text, *_ in conditionings)
        if all(text.shape[1] == most for text, *_ in conditionings):
            return conditionings
        (nothing,) = self([""])
        return tuple((lengthen(text, most, nothing), *rest) for text, *rest in conditionings)

    def tokens(self, prompt: str) -> list[str]:
        return token_strings(self.pipeline, self.pipeline.tokenizer, prompt)
