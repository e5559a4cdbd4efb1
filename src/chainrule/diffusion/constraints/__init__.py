"""What is imposed on the latents between two steps."""

from chainrule.diffusion.constraints.base import (
    Constraint,
    NoisedReference,
    Reference,
    StepConstraint,
    VisitedReference,
    constrain,
)
from chainrule.diffusion.constraints.inpaint import Inpaint, fill_in, mask_for_latents
from chainrule.diffusion.constraints.low_pass import LowPass

__all__ = [
    "Constraint",
    "Inpaint",
    "LowPass",
    "NoisedReference",
    "Reference",
    "StepConstraint",
    "VisitedReference",
    "constrain",
    "fill_in",
    "mask_for_latents",
]
