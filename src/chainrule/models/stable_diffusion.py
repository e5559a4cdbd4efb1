"""Stable Diffusion 1.x and 2.x: a U-Net on latents, one CLIP text encoder, epsilon or v prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chainrule.denoiser import Conditioning, Epsilon, Network, Output, Velocity
from chainrule.errors import UserError
from chainrule.models.base import Codec, Model, Text, clamp_through
from chainrule.schedule import Schedule, Spacing, VariancePreserving, leading, linspace, trailing

OUTPUTS: dict[str, Output] = {"epsilon": Epsilon(), "v_prediction": Velocity()}


def adapt(pipeline: Any, name: str, guidance_scale: float) -> Model:
    """The parts of a `StableDiffusionPipeline` as a Model. The pipeline's weights are frozen, nothing else changes."""
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    side = pipeline.unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    return Model(
        name=name,
        network=_UNet(pipeline.unet, schedule(pipeline.scheduler.config), _output(pipeline.scheduler.config)),
        codec=_autoencoder(pipeline, (pipeline.unet.config.in_channels, height, width)),
        text=_Clip(pipeline),
        guidance_scale=guidance_scale,
        device=pipeline.unet.device,
    )


def schedule(config: Any) -> Schedule:
    """The noise schedule in a diffusers scheduler's configuration, whichever scheduler it was written for."""
    from diffusers import DDIMScheduler

    ddim = DDIMScheduler.from_config(config)
    spacings: dict[str, Spacing] = {
        "leading": leading(ddim.config.steps_offset),
        "trailing": trailing,
        "linspace": linspace,
    }
    return VariancePreserving(
        ddim.alphas_cumprod, float(ddim.final_alpha_cumprod), spacings[ddim.config.timestep_spacing]
    )


def _output(config: Any) -> Output:
    kind = config.get("prediction_type", "epsilon")
    if kind not in OUTPUTS:
        raise UserError(f"a network that predicts {kind!r} is not supported: {' and '.join(OUTPUTS)} are")
    if kind == "epsilon" and config.get("rescale_betas_zero_snr", False):
        raise UserError("a network that predicts the noise cannot start at zero signal: use a v-prediction checkpoint")
    return OUTPUTS[kind]


def _autoencoder(pipeline: Any, latent_shape: tuple[int, int, int]) -> _Autoencoder:
    factor, halvings = (2 ** (len(part.config.block_out_channels) - 1) for part in (pipeline.vae, pipeline.unet))
    return _Autoencoder(pipeline.vae, latent_shape, factor, factor * halvings)


@dataclass(frozen=True, eq=False)
class _UNet(Network):
    unet: Any
    schedule: Schedule
    output: Output

    def __call__(self, x: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        dtype = self.unet.dtype
        (text,) = conditioning
        time = torch.tensor(t, device=x.device)
        f: Tensor = self.unet(x.to(dtype), time, encoder_hidden_states=text.to(dtype)).sample
        return f.to(x.dtype)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(self.unet.parameters())


@dataclass(frozen=True, eq=False)
class _Autoencoder(Codec):
    vae: Any
    latent_shape: tuple[int, int, int]
    factor: int
    multiple: int

    def decode(self, latents: Tensor) -> Tensor:
        z = latents / self.vae.config.scaling_factor
        return clamp_through(self.vae.decode(z.to(self.vae.dtype)).sample.to(latents.dtype) / 2 + 0.5)

    def encode(self, images: Tensor) -> Tensor:
        z: Tensor = self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist.mode()
        return z.to(images.dtype) * self.vae.config.scaling_factor


@dataclass(frozen=True, eq=False)
class _Clip(Text):
    pipeline: Any

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        tokenizer = self.pipeline.tokenizer
        for prompt in prompts:
            count = len(tokenizer(prompt).input_ids)
            if count > tokenizer.model_max_length:
                raise UserError(
                    f"the prompt has {count - 2} tokens and this model reads {tokenizer.model_max_length - 2}: "
                    f"shorten it ({prompt[:60]!r}...)"
                )
        text, _ = self.pipeline.encode_prompt(
            prompt=list(prompts),
            device=self.pipeline.text_encoder.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return (text,)
