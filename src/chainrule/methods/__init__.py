"""One paper, one file, one function. Each takes a Task and gives a Result."""

from chainrule.methods.adjoint_dpm import ADJOINT_DPM, adjoint_dpm
from chainrule.methods.asyrp import asyrp
from chainrule.methods.audit import Audit, AuditTask, audit
from chainrule.methods.base import Photo, Result, Task, masked
from chainrule.methods.best_of import best, best_of, draws
from chainrule.methods.blended import blended
from chainrule.methods.diffedit import diffedit
from chainrule.methods.doodl import Doodl, DoodlState, doodl
from chainrule.methods.edict import edict, reconstruction
from chainrule.methods.effect import Effect, Pair, effect
from chainrule.methods.ilvr import ilvr
from chainrule.methods.noise_aware import noise_aware
from chainrule.methods.one_step import one_step, one_step_edit
from chainrule.methods.plain import plain
from chainrule.methods.prompt_to_prompt import Attention, prompt_to_prompt, side_by_side
from chainrule.methods.repaint import repaint
from chainrule.methods.sdedit import sdedit
from chainrule.methods.semantic import semantic
from chainrule.methods.stylize import StyleTask, Stylization, stylize
from chainrule.optimise import Adam, Momentum

__all__ = [
    "ADJOINT_DPM",
    "Adam",
    "Attention",
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
    "asyrp",
    "audit",
    "best",
    "best_of",
    "blended",
    "diffedit",
    "doodl",
    "draws",
    "edict",
    "effect",
    "ilvr",
    "masked",
    "noise_aware",
    "one_step",
    "one_step_edit",
    "plain",
    "prompt_to_prompt",
    "reconstruction",
    "repaint",
    "sdedit",
    "semantic",
    "side_by_side",
    "stylize",
]
