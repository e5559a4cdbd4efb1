"""What is constrain on the latents between two steps."""

from chainrule.diffusion.constraints.base import Constraint, Noised, Visited, constrain
from chainrule.diffusion.constraints.inpaint import Inpaint
from chainrule.diffusion.constraints.low_pass import LowPass

__all__ = ["Constraint", "Inpaint", "LowPass", "Noised", "Visited", "imposed"]
