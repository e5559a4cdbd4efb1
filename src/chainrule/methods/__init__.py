"""One paper, one file, one function. Each takes a Task and gives a Result."""

from chainrule.methods.adjoint_dpm import ADJOINT_DPM, adjoint_dpm
from chainrule.methods.audit import Audit, Suspect, audit
from chainrule.methods.base import Photo, Result, Task
from chainrule.methods.best_of import best, best_of, draws
from chainrule.methods.doodl import Doodl, DoodlState, doodl
from chainrule.methods.edict import edict, reconstruction
from chainrule.methods.effect import Effect, Pair, effect
from chainrule.methods.noise_aware import noise_aware
from chainrule.methods.one_step import one_step, one_step_edit
from chainrule.methods.plain import plain
from chainrule.methods.stylize import Studio, Stylization, stylize
from chainrule.optimise import Adam, Momentum

__all__ = [
    "ADJOINT_DPM",
    "Adam",
    "Audit",
    "Doodl",
    "DoodlState",
    "Effect",
    "Momentum",
    "Pair",
    "Photo",
    "Result",
    "Studio",
    "Stylization",
    "Suspect",
    "Task",
    "adjoint_dpm",
    "audit",
    "best",
    "best_of",
    "doodl",
    "draws",
    "edict",
    "effect",
    "noise_aware",
    "one_step",
    "one_step_edit",
    "plain",
    "reconstruction",
    "stylize",
]
