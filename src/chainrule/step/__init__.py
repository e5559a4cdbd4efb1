"""Solvers: one step of the sampling chain, from time t to time s."""

from chainrule.step.base import Step
from chainrule.step.ddim import DDIM
from chainrule.step.edict import EDICT

__all__ = ["DDIM", "EDICT", "Step"]
