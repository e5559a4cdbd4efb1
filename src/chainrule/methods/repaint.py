"""RePaint: Lugmayr et al., "RePaint: Inpainting using DDPMs", 2022, algorithm 1."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.schedule import Schedule
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.diffusion.time_grids import add_jumps
from chainrule.methods.base import Drawn, Eta, Needs, Steps, Task
from chainrule.methods.chains import OneShot, constrain_to_mask, generate


class RePaint(OneShot):
    """Draws what the mask leaves free, and keeps the rest at each noise level.

        x_s^known = alpha_s z + sigma_s eps,    x_s = m x_s^unknown + (1 - m) x_s^known    eq. 8

    Lugmayr et al., "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", 2022. So
    that both halves agree, the chain jumps back up and comes down again (section 4.2): on a time
    grid that goes up and down.

    Limits: about `repeats` times the steps of a plain chain; of a latent model, what is known
    passes the autoencoder, so that pixels stay to its precision (exactly, if kept exact).
    """

    kind: Literal["repaint"] = "repaint"
    needs = Needs.PHOTO | Needs.MASK
    to_change_more: ClassVar[str] = "mark more in the mask, or name another prompt"
    jump: int = Field(default=10, ge=1, description="How many steps the chain jumps back.")
    repeats: int = Field(default=10, ge=1, description="How often it comes down in all.")
    eta: Eta = 1.0
    steps: Steps = 50

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if self.repeats > 1 and self.jump >= self.steps:
            warnings.warn(
                f"a jump of {self.jump} steps does not fit into a chain of {self.steps}: it comes "
                "down once, without any (choose a shorter jump)",
                stacklevel=2,
            )
        return prepared

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return generate(
            constrain_to_mask(task),
            task.x_T,
            self.steps,
            solver=DDPM(task.noise.stream("ddpm"), self.eta),
            grid=self._times,
            on_step=on_step,
        )

    def _times(self, schedule: Schedule, steps: int) -> Tensor:
        return add_jumps(schedule.times(steps), self.jump, self.repeats)
