"""Networks of the sizes of real checkpoints, with random weights.

They are for time and memory, which do not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn

import chainrule
from chainrule.diffusion.denoiser import Conditioning, Denoiser
from chainrule.models import Model

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Size:
    """A checkpoint's shape.

    Args:
        name: The checkpoint's.
        pipeline: Makes the pipeline, its networks without weights.
        pixels: The side of its images.
        tokens: How many tokens it is told.
        width: How many numbers each has.
        pooled: How many numbers the pooled embedding has; None: there is none.
    """

    name: str
    pipeline: Callable[[], DiffusionPipeline]
    pixels: int
    tokens: int
    width: int
    pooled: int | None = None

    def model(self, device: str, dtype: torch.dtype, pixels: int | None = None) -> Model:
        """The model, for images of `pixels` (None: its own)."""
        torch.manual_seed(0)
        with torch.device("meta"):
            pipeline = self.pipeline()
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                _fill(part.to(dtype), device)
        side = pixels or self.pixels
        return chainrule.load(pipeline, size=(side, side))

    def denoiser(self, model: Model, dtype: torch.dtype, guidance_scale: float) -> Denoiser:
        """The model told something, and guided."""
        told, untold = self._tell(model, dtype), self._tell(model, dtype)
        return model.denoiser(told, negative_prompt=untold, guidance_scale=guidance_scale)

    def _tell(self, model: Model, dtype: torch.dtype) -> Conditioning:
        text = torch.randn(1, self.tokens, self.width, device=model.device, dtype=dtype)
        if self.pooled is None:
            return (text,)
        return text, torch.randn_like(text[:, 0, :1]).expand(1, self.pooled)


@torch.no_grad()
def _fill(module: nn.Module, device: str) -> None:
    """Give a network random weights, small enough for its activations to stay finite."""
    buffers: list[tuple[Any, str, Tensor]] = [
        (part, name, buffer)
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    module.to_empty(device=device)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.5 * parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    for part, name, buffer in buffers:
        part._buffers[name] = torch.randn(buffer.shape, device=device, dtype=buffer.dtype)


def _scheduler(kind: type, **settings: Any) -> Any:
    with torch.device("cpu"):
        return kind(**settings)


def _vae(channels: int, **changes: Any) -> AutoencoderKL:
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=channels,
        **blocks,
        **changes,
    )


def _sd14() -> StableDiffusionPipeline:
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=_scheduler(
            DDIMScheduler, **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _xl() -> StableDiffusionXLPipeline:
    unet = UNet2DConditionModel(
        sample_size=128,
        cross_attention_dim=2048,
        attention_head_dim=[5, 10, 20],
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=_scheduler(
            EulerDiscreteScheduler, **BETAS, timestep_spacing="leading", steps_offset=1
        ),
        add_watermarker=False,
    )


def _sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
    )
    return StableDiffusion3Pipeline(
        vae=_vae(16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=transformer,
        scheduler=_scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0),
    )


def _tiny() -> StableDiffusionPipeline:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=_scheduler(
            DDIMScheduler, **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


SIZES = {
    "tiny": Size("tiny", _tiny, 16, 8, 16),
    "SD-1.4": Size("SD-1.4", _sd14, 512, 77, 768),
    "SDXL": Size("SDXL", _xl, 1024, 77, 2048, 1280),
    "SD3": Size("SD3", _sd3, 1024, 333, 4096, 2048),
}
