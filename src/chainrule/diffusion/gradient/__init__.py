"""How a chain is differentiated.

All but `Adjoint` and `Truncated` give the same gradient, up to rounding.
"""

from chainrule.diffusion.gradient.adjoint import Adjoint
from chainrule.diffusion.gradient.backprop import Backprop
from chainrule.diffusion.gradient.base import Chain, Gradient, OnStep
from chainrule.diffusion.gradient.checkpoint import Checkpoint
from chainrule.diffusion.gradient.reversible import Reversible
from chainrule.diffusion.gradient.truncated import Truncated

__all__ = [
    "Adjoint",
    "Backprop",
    "Chain",
    "Checkpoint",
    "Gradient",
    "OnStep",
    "Reversible",
    "Truncated",
]
