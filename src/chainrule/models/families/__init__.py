"""Families of checkpoints: one file for each, which says how its diffusers pipeline is a Model.

An adapter takes the pipeline (already frozen), its name and the images' size in pixels (None: the checkpoint's own).
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

__all__ = ["FAMILIES", "Adapter"]

Adapter = Callable[[Any, str, tuple[int, int] | None], Model]

FAMILIES: dict[str, Adapter] = {
    "StableDiffusionPipeline": stable_diffusion.adapt,
    "LatentConsistencyModelPipeline": stable_diffusion.adapt,
    "StableDiffusionXLPipeline": stable_diffusion_xl.adapt,
    "StableDiffusion3Pipeline": stable_diffusion_3.adapt,
    "FluxPipeline": flux.adapt,
    "PixArtAlphaPipeline": pixart.adapt,
    "PixArtSigmaPipeline": pixart.adapt,
    "DiTPipeline": dit.adapt,
    "DDPMPipeline": pixels.adapt,
    "DDIMPipeline": pixels.adapt,
}
"""The adapter of each pipeline class."""
