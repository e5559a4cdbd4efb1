"""What reaches inside the network: its attention maps and its bottleneck."""

from chainrule.diffusion.control.attention import Alignment, AttentionEdit, PairedDenoiser, Blend, Maps, Pairing, align
from chainrule.diffusion.control.bottleneck import Bottleneck, Shift, Towards

__all__ = [
    "Alignment",
    "AttentionEdit",
    "Beside",
    "Blend",
    "Bottleneck",
    "Maps",
    "Pairing",
    "Shift",
    "Towards",
    "align",
]
