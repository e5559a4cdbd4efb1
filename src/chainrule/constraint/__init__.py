"""What is imposed on the latents between two steps."""

from chainrule.constraint.base import Constraint, Noised, Visited, imposed
from chainrule.constraint.inpaint import Inpaint
from chainrule.constraint.low_pass import LowPass

__all__ = ["Constraint", "Inpaint", "LowPass", "Noised", "Visited", "imposed"]
