"""Solvers by name; other packages add theirs through the entry points `chainrule.solvers`."""

from __future__ import annotations

from collections.abc import Callable

from chainrule.diffusion.solvers.adams_bashforth import AdamsBashforth
from chainrule.diffusion.solvers.adaptive import Adaptive
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.solvers.dpm_solver import DPMSolver
from chainrule.diffusion.solvers.edict import EDICT
from chainrule.diffusion.solvers.runge_kutta import RK3, RK4, Euler, Heun
from chainrule.specs import Registry

SOLVERS: Registry[Callable[[], Solver]] = Registry(
    "chainrule.solvers",
    "solver",
    {
        "ddim": DDIM,
        "euler": Euler,
        "heun": Heun,
        "rk3": RK3,
        "rk4": RK4,
        "ab2": lambda: AdamsBashforth(2),
        "ab3": lambda: AdamsBashforth(3),
        "ab4": lambda: AdamsBashforth(4),
        "dpm++": DPMSolver,
        "adaptive": Adaptive,
        "edict": EDICT,
    },
)
"""What makes the solver of each name."""
