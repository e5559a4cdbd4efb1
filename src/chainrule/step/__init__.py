"""Solvers: one step of the sampling chain, from time t to time s."""

from chainrule.step.adams_bashforth import AdamsBashforth
from chainrule.step.adaptive import Adaptive
from chainrule.step.base import Solver, Step
from chainrule.step.ddim import DDIM
from chainrule.step.ddpm import DDPM
from chainrule.step.dpm_solver import DPMSolver
from chainrule.step.edict import EDICT
from chainrule.step.runge_kutta import RK3, RK4, Euler, Heun

__all__ = [
    "DDIM",
    "DDPM",
    "EDICT",
    "RK3",
    "RK4",
    "AdamsBashforth",
    "Adaptive",
    "DPMSolver",
    "Euler",
    "Heun",
    "Solver",
    "Step",
]
