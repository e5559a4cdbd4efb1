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
from chainrule.diffusion.control.learnt import Learnt, Several

__all__ = [
    "Alignment",
    "AttentionEdit",
    "Blend",
    "Bottleneck",
    "Direction",
    "Learnt",
    "Maps",
    "PairedDenoiser",
    "Pairing",
    "Several",
    "Shift",
    "Towards",
    "align",
    "deepest",
]
