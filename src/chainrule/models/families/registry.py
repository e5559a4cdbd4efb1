"""The adapter of each pipeline class.

Another package brings a family through an entry point of the group `chainrule.families`: its name
is that of the pipeline class, its value the adapter. Where diffusers does not have that class, the
adapter has it as its attribute `pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chainrule.models.base import Model
from chainrule.models.families import (
    dit,
    flux,
    pixart,
    pixels,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
)
from chainrule.specs import Registry

Adapter = Callable[[Any, str, tuple[int, int] | None], Model]
"""(frozen pipeline, name, images' (height, width) in pixels or None) -> Model."""

FAMILIES: Registry[Adapter] = Registry(
    "chainrule.families",
    "family of pipelines",
    {
        "StableDiffusionPipeline": stable_diffusion.adapt,
        "StableDiffusionImg2ImgPipeline": stable_diffusion.adapt,
        "StableDiffusionInpaintPipeline": stable_diffusion.adapt,
        "StableDiffusionPAGPipeline": stable_diffusion.adapt,
        "StableDiffusionPAGImg2ImgPipeline": stable_diffusion.adapt,
        "LatentConsistencyModelPipeline": stable_diffusion.adapt,
        "LatentConsistencyModelImg2ImgPipeline": stable_diffusion.adapt,
        "StableDiffusionXLPipeline": stable_diffusion_xl.adapt,
        "StableDiffusionXLImg2ImgPipeline": stable_diffusion_xl.adapt,
        "StableDiffusionXLInpaintPipeline": stable_diffusion_xl.adapt,
        "StableDiffusionXLPAGPipeline": stable_diffusion_xl.adapt,
        "StableDiffusion3Pipeline": stable_diffusion_3.adapt,
        "StableDiffusion3Img2ImgPipeline": stable_diffusion_3.adapt,
        "StableDiffusion3InpaintPipeline": stable_diffusion_3.adapt,
        "FluxPipeline": flux.adapt,
        "FluxImg2ImgPipeline": flux.adapt,
        "FluxInpaintPipeline": flux.adapt,
        "PixArtAlphaPipeline": pixart.adapt,
        "PixArtSigmaPipeline": pixart.adapt,
        "DiTPipeline": dit.adapt,
        "DDPMPipeline": pixels.adapt,
        "DDIMPipeline": pixels.adapt,
    },
)
