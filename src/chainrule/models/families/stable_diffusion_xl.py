"""Stable Diffusion XL: a U-Net on latents, two CLIPs, and the image's size beside the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning
from chainrule.errors import UserError
from chainrule.models.backbone import Backbone
from chainrule.models.base import Model
from chainrule.models.families.base import PipelineText, check_unet, read_codec, read_guidance
from chainrule.models.inpainting import Inpainting
from chainrule.models.schedulers import read_parameterization, read_schedule
from chainrule.models.tokens import (
    chunk_ids,
    encode_chunks,
    find_ends_by_name,
    join_chunks,
    lengthen,
    token_strings,
)


def adapt(pipeline: Any, name: str, size: tuple[int, int] | None) -> Model:
    """A `StableDiffusionXLPipeline`, one of those with the same parts, as a Model."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    alone = pipeline.text_encoder is None and pipeline.text_encoder_2 is not None
    if pipeline.config.get("requires_aesthetics_score") or alone:
        raise UserError(
            f"{name} is a refiner of Stable Diffusion XL, which goes on from the base model's "
            "latents",
            "choose the base model",
            "model",
        )
    check_unet(unet, name, addition="text_time")
    codec, picture = read_codec(pipeline, size)
    # its activations leave the range of half precision
    codec = replace(codec, float32_in_half=bool(codec.vae.config.get("force_upcast", False)))
    if codec.vae.dtype == torch.float16 and codec.float32_in_half:
        codec.vae.float()
    find_ends_by_name(pipeline)  # its text encoders are copies
    schedule, parameterization = read_schedule(scheduler), read_parameterization(scheduler)
    network: Backbone = _UNet(unet, schedule, parameterization, codec.factor)
    if picture is not None:
        network = Inpainting(unet, schedule, parameterization, network)
    return Model(
        name=name,
        network=network,
        codec=codec,
        text=_TwoClips(pipeline),
        guidance_scale=5.0,
        device=unet.device,
        guidance=read_guidance(pipeline),
        picture=picture,
    )


@dataclass(frozen=True, eq=False)
class _UNet(Backbone):
    """The conditioning is (text (B, tokens, D), pooled (B, D')).

    Consistency models add the scale's embedding.
    """

    factor: int

    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        text, pooled, *scale = conditioning
        height, width = (side * self.factor for side in x.shape[-2:])
        # the size of the original, the corner of the crop, and the size to make
        sizes = x.new_tensor([height, width, 0, 0, height, width]).expand(len(x), -1)
        output: Tensor = self.module(
            x,
            t,
            encoder_hidden_states=text,
            timestep_cond=scale[0] if scale else None,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        ).sample
        return output


@dataclass(frozen=True, eq=False)
class _TwoClips(PipelineText):
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        pipeline = self.pipeline
        tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2)
        encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
        ids = chunk_ids(pipeline, tokenizers, prompts)
        first, second = map(encode_chunks, encoders, tokenizers, ids)
        parts = (first.hidden_states[-2], second.hidden_states[-2])
        text = torch.cat([join_chunks(part, ids[0]) for part in parts], dim=-1)
        # the first chunk speaks for all
        pooled = second[0].unflatten(0, ids[1].shape[:2])[:, 0]
        if self.pipeline.config.force_zeros_for_empty_prompt:  # it was trained so
            given = torch.tensor([bool(prompt) for prompt in prompts], device=text.device)
            text, pooled = text * given[:, None, None], pooled * given[:, None]
        return text, pooled

    def match(self, *conditionings: Conditioning) -> tuple[Conditioning, ...]:
        most = max(text.shape[1] for text, *_ in conditionings)
        if all(text.shape[1] == most for text, *_ in conditionings):
            return conditionings
        (nothing, _), matched = self([" "]), list[Conditioning]()
        for text, *rest in conditionings:
            longer = lengthen(text, most, nothing)
            # what is read as zeros stays so
            matched.append((longer * text.flatten(1).any(dim=1)[:, None, None], *rest))
        return tuple(matched)

    def tokens(self, prompt: str) -> list[str]:
        # the other tokenizer's are the same words
        return token_strings(self.pipeline, self.pipeline.tokenizer, prompt)
