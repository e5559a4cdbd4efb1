"""What the U-Nets that read a text share."""

from __future__ import annotations

from typing import Any

import torch

from chainrule.errors import UserError
from chainrule.models.base import CLASSIFIER_FREE, DistilledGuidance, Guidance


def read_downsampling(unet: Any) -> int:
    """By how much a U-Net narrows its latents.

    Raises:
        UserError: It takes a picture besides the text.
    """
    kind = unet.config.encoder_hid_dim_type
    if kind is not None and "image" in kind:
        raise UserError(
            f"the network takes a picture too ({kind})",
            "unload its IP-adapter (pipeline.unload_ip_adapter())",
            "model",
        )
    return int(2 ** (len(unet.config.block_out_channels) - 1))


def read_guidance(pipeline: Any) -> Guidance:
    """Classifier-free guidance, unless the scale is an input (consistency models)."""
    width = pipeline.unet.config.time_cond_proj_dim
    if width is None:
        return CLASSIFIER_FREE
    embed = pipeline.get_guidance_scale_embedding
    return DistilledGuidance(lambda scale: embed(torch.tensor([scale - 1.0]), width))
