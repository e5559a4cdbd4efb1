"""One paper, one file, one function. Each takes a Task and gives a Result."""

from chainrule.methods.base import Photo, Result, Task
from chainrule.methods.best_of import best, best_of, draws
from chainrule.methods.doodl import Adam, Doodl, DoodlState, Momentum, doodl
from chainrule.methods.edict import edict, reconstruction
from chainrule.methods.noise_aware import noise_aware
from chainrule.methods.one_step import one_step, one_step_edit
from chainrule.methods.plain import plain

__all__ = [
    "Adam",
    "Doodl",
    "DoodlState",
    "Momentum",
    "Photo",
    "Result",
    "Task",
    "best",
    "best_of",
    "doodl",
    "draws",
    "edict",
    "noise_aware",
    "one_step",
    "one_step_edit",
    "plain",
    "reconstruction",
]
