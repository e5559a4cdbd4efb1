"""How a chain is differentiated. All but `Adjoint` give the same gradient, up to rounding."""

from chainrule.gradient.adjoint import Adjoint
from chainrule.gradient.backprop import Backprop
from chainrule.gradient.base import Chain, Gradient
from chainrule.gradient.checkpoint import Checkpoint
from chainrule.gradient.reversible import Reversible

__all__ = ["Adjoint", "Backprop", "Chain", "Checkpoint", "Gradient", "Reversible"]
