"""What reaches inside the network: its attention maps and its bottleneck."""

from chainrule.control.attention import Alignment, AttentionEdit, Beside, Blend, Maps, Pairing, align
from chainrule.control.bottleneck import Bottleneck, Shift, Towards

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
