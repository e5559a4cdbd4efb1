"""chainrule: exact gradients through the whole sampling chain of a diffusion model."""

from chainrule.errors import UserError
from chainrule.gradient import Backprop, Checkpoint, Reversible
from chainrule.models import Model, load
from chainrule.noise import Noise
from chainrule.sample import invert, sample, sample_state
from chainrule.step import DDIM, EDICT

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "EDICT",
    "Backprop",
    "Checkpoint",
    "Model",
    "Noise",
    "Reversible",
    "UserError",
    "invert",
    "load",
    "sample",
    "sample_state",
]
