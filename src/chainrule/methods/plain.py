"""Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models", 2020; Song, Meng & Ermon, "DDIM", 2021.

The images of a prompt, by any deterministic solver on any grid of times, with the model's own guidance.
Limits: it draws what the model knows by the words it knows; it is the baseline of everything.
"""

from __future__ import annotations

from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Result, Task, generate
from chainrule.diffusion.schedule import Grid
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.ddim import DDIM

_DDIM = DDIM()


def plain(
    task: Task, *, steps: int = 50, solver: Solver = _DDIM, grid: Grid | None = None, on_step: OnStep | None = None
) -> Result:
    """The images of the task's seeds."""
    return generate(task, task.denoiser, task.x_T, steps, solver=solver, grid=grid, on_step=on_step)
