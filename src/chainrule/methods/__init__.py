"""One paper, one file, one class: settings that are called on a task."""

from chainrule.methods.adjoint_dpm import AdjointDPM
from chainrule.methods.asyrp import Asyrp
from chainrule.methods.asyrp_edit import AsyrpEdit
from chainrule.methods.asyrp_trained import AsyrpTrained
from chainrule.methods.audit import Audit
from chainrule.methods.audited import AuditTask
from chainrule.methods.base import Method, Needs, Photo, Result, Sheet, Situation, State, Task
from chainrule.methods.best_of import BestOf
from chainrule.methods.blended import BlendedDiffusion
from chainrule.methods.chains import constrain_to_mask
from chainrule.methods.ddim_inversion import DDIMInversion
from chainrule.methods.diffedit import DiffEdit
from chainrule.methods.diffusion_clip import DiffusionCLIP
from chainrule.methods.diffusion_clip_edit import DiffusionCLIPEdit
from chainrule.methods.dno import DNO
from chainrule.methods.doodl import DOODL, DOODLState
from chainrule.methods.dreambooth import DreamBooth
from chainrule.methods.edict import EDICTEdit
from chainrule.methods.effect import Effect
from chainrule.methods.hybrid import Hybrid
from chainrule.methods.ilvr import ILVR
from chainrule.methods.imagic import Imagic
from chainrule.methods.inversion import Inversion
from chainrule.methods.langevin import Langevin
from chainrule.methods.noise_aware import NoiseAwareGuidance
from chainrule.methods.one_step import OneStepGuidance
from chainrule.methods.plain import Plain
from chainrule.methods.prompt_to_prompt import PromptToPrompt
from chainrule.methods.reconstruction import Reconstruction
from chainrule.methods.registry import METHODS
from chainrule.methods.reno import ReNO
from chainrule.methods.repaint import RePaint
from chainrule.methods.reward import RewardTuning
from chainrule.methods.sdedit import SDEdit
from chainrule.methods.search import Search
from chainrule.methods.semantic import SemanticGuidance
from chainrule.methods.style_task import StyleTask
from chainrule.methods.stylize import Stylize
from chainrule.methods.textual_inversion import TextualInversion
from chainrule.methods.tfg import TFG
from chainrule.methods.unitune import UniTune
from chainrule.methods.variations import Variations
from chainrule.optimise import Adam, Momentum

__all__ = [
    "DNO",
    "DOODL",
    "ILVR",
    "METHODS",
    "TFG",
    "Adam",
    "AdjointDPM",
    "Asyrp",
    "AsyrpEdit",
    "AsyrpTrained",
    "Audit",
    "AuditTask",
    "BestOf",
    "BlendedDiffusion",
    "DDIMInversion",
    "DOODLState",
    "DiffEdit",
    "DiffusionCLIP",
    "DiffusionCLIPEdit",
    "DreamBooth",
    "EDICTEdit",
    "Effect",
    "Hybrid",
    "Imagic",
    "Inversion",
    "Langevin",
    "Method",
    "Momentum",
    "Needs",
    "NoiseAwareGuidance",
    "OneStepGuidance",
    "Photo",
    "Plain",
    "PromptToPrompt",
    "ReNO",
    "RePaint",
    "Reconstruction",
    "Result",
    "RewardTuning",
    "SDEdit",
    "Search",
    "SemanticGuidance",
    "Sheet",
    "Situation",
    "State",
    "StyleTask",
    "Stylize",
    "Task",
    "TextualInversion",
    "UniTune",
    "Variations",
    "constrain_to_mask",
]
