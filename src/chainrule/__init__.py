"""chainrule: exact gradients through the whole sampling chain of a diffusion model."""

from chainrule.diffusion.gradient import Adjoint, Backprop, Checkpoint, Reversible
from chainrule.diffusion.sampling import invert, sample, sample_state
from chainrule.diffusion.solvers import (
    DDIM,
    DDPM,
    EDICT,
    RK3,
    RK4,
    AdamsBashforth,
    Adaptive,
    DPMSolver,
    Euler,
    Heun,
)
from chainrule.errors import UserError
from chainrule.models import Model, load
from chainrule.noise import Noise

__version__ = "0.2.0"

__all__ = [
    "DDIM",
    "DDPM",
    "EDICT",
    "RK3",
    "RK4",
    "AdamsBashforth",
    "Adaptive",
    "Adjoint",
    "Backprop",
    "Checkpoint",
    "DPMSolver",
    "Euler",
    "Heun",
    "Model",
    "Noise",
    "Reversible",
    "UserError",
    "invert",
    "load",
    "sample",
    "sample_state",
]
