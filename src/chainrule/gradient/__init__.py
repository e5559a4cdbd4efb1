"""How a chain is differentiated. The three ways here give the same gradient, up to rounding."""

from chainrule.gradient.backprop import Backprop
from chainrule.gradient.base import Chain, Gradient
from chainrule.gradient.checkpoint import Checkpoint
from chainrule.gradient.reversible import Reversible

__all__ = ["Backprop", "Chain", "Checkpoint", "Gradient", "Reversible"]
