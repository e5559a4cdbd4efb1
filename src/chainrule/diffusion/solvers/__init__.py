"""Solvers: what makes one step of the sampling chain, from time t to time s."""

from chainrule.diffusion.solvers.adams_bashforth import AdamsBashforth
from chainrule.diffusion.solvers.adaptive import Adaptive
from chainrule.diffusion.solvers.base import ODESolver, Solver, State, WrappedSolver
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.diffusion.solvers.dpm_solver import DPMSolver
from chainrule.diffusion.solvers.edict import EDICT
from chainrule.diffusion.solvers.runge_kutta import RK3, RK4, Euler, Heun

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
    "ODESolver",
    "Solver",
    "State",
    "WrappedSolver",
]
