"""What reaches inside the network: its attention maps and its bottleneck."""

from chainrule.diffusion.control.attention import (
    Alignment,
    AttentionEdit,
    Blend,
    Maps,
    PairedDenoiser,
    Pairing,
    align,
)
from chainrule.diffusion.control.bottleneck import Bottleneck, Direction, Shift, Towards, deepest

__all__ = [
    "Alignment",
    "AttentionEdit",
    "Blend",
    "Bottleneck",
    "Direction",
    "Maps",
    "PairedDenoiser",
    "Pairing",
    "Shift",
    "Towards",
    "align",
    "deepest",
]
