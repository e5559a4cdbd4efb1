"""Plain sampling: Ho, Jain & Abbeel, "DDPM", 2020; Song, Meng & Ermon, "DDIM", 2021."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.registry import SOLVERS
from chainrule.diffusion.time_grids import GRIDS
from chainrule.methods.base import GRIDS_KNOWN, Drawn, GridName, Needs, SolverName, Steps, Task
from chainrule.methods.chains import OneShot, generate


class Plain(OneShot):
    """The images of a prompt, by any solver on any grid of times, with the model's own guidance.

    Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models", 2020; Song, Meng & Ermon,
    "Denoising Diffusion Implicit Models", 2021.

    Limits: it draws what the model knows by the words it knows; it is the baseline of everything.
    """

    kind: Literal["plain"] = "plain"
    needs = Needs.NOISE
    steps: Steps = 50
    solver: SolverName = "ddim"
    grid: GridName | None = Field(default=None, description=GRIDS_KNOWN)

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        grid = GRIDS[self.grid] if self.grid else None
        solver = SOLVERS[self.solver]()
        return generate(task, task.x_T, self.steps, solver=solver, grid=grid, on_step=on_step)
