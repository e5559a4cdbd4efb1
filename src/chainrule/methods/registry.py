"""Methods by name; other packages add theirs through the entry points `chainrule.methods`."""

from __future__ import annotations

from chainrule.methods.adjoint_dpm import AdjointDPM
from chainrule.methods.asyrp import Asyrp
from chainrule.methods.asyrp_edit import AsyrpEdit
from chainrule.methods.asyrp_trained import AsyrpTrained
from chainrule.methods.audit import Audit
from chainrule.methods.base import Method
from chainrule.methods.best_of import BestOf
from chainrule.methods.blended import BlendedDiffusion
from chainrule.methods.ddim_inversion import DDIMInversion
from chainrule.methods.diffedit import DiffEdit
from chainrule.methods.diffusion_clip import DiffusionCLIP
from chainrule.methods.diffusion_clip_edit import DiffusionCLIPEdit
from chainrule.methods.dno import DNO
from chainrule.methods.doodl import DOODL
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
from chainrule.methods.reno import ReNO
from chainrule.methods.repaint import RePaint
from chainrule.methods.reward import RewardTuning
from chainrule.methods.sdedit import SDEdit
from chainrule.methods.search import Search
from chainrule.methods.semantic import SemanticGuidance
from chainrule.methods.stylize import Stylize
from chainrule.methods.textual_inversion import TextualInversion
from chainrule.methods.tfg import TFG
from chainrule.methods.unitune import UniTune
from chainrule.methods.variations import Variations
from chainrule.specs import Registry

OWN: tuple[type[Method], ...] = (
    Plain,
    Variations,
    OneStepGuidance,
    TFG,
    NoiseAwareGuidance,
    SemanticGuidance,
    BestOf,
    Search,
    DOODL,
    Hybrid,
    AdjointDPM,
    ReNO,
    DNO,
    Langevin,
    Reconstruction,
    Inversion,
    EDICTEdit,
    DDIMInversion,
    SDEdit,
    ILVR,
    RePaint,
    BlendedDiffusion,
    DiffEdit,
    PromptToPrompt,
    Asyrp,
    Effect,
    Stylize,
    TextualInversion,
    DreamBooth,
    DiffusionCLIP,
    DiffusionCLIPEdit,
    AsyrpTrained,
    AsyrpEdit,
    RewardTuning,
    Imagic,
    UniTune,
    Audit,
)
"""One line a method."""

METHODS: Registry[type[Method]] = Registry(
    "chainrule.methods",
    "method",
    {str(method.model_fields["kind"].default): method for method in OWN},
)
"""The class of each kind."""
