"""One paper, one file, one function. Each takes a Task and gives a Result."""

from chainrule.methods.base import Result, Task
from chainrule.methods.best_of import best, best_of, draws
from chainrule.methods.doodl import Adam, Doodl, DoodlState, Momentum, doodl
from chainrule.methods.noise_aware import noise_aware
from chainrule.methods.one_step import one_step
from chainrule.methods.plain import plain

__all__ = [
    "Adam",
    "Doodl",
    "DoodlState",
    "Momentum",
    "Result",
    "Task",
    "best",
    "best_of",
    "doodl",
    "draws",
    "noise_aware",
    "one_step",
    "plain",
]
