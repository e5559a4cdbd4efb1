"""What `import chainrule` offers, by name. It takes seconds to import, so that is put off."""

from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser
from chainrule.diffusion.gradient import Adjoint, Backprop, Checkpoint, Reversible, Truncated
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
    Solver,
)
from chainrule.errors import UserError
from chainrule.models import Model, load
from chainrule.noise import Noise

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
    "Denoiser",
    "Euler",
    "Heun",
    "Model",
    "Noise",
    "Prediction",
    "Reversible",
    "Solver",
    "Truncated",
    "UserError",
    "WrappedDenoiser",
    "invert",
    "load",
    "sample",
    "sample_state",
]
