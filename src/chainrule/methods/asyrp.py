"""Asyrp: Kwon, Jeong & Uh, "Diffusion Models Already Have a Semantic Latent Space", 2023."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from chainrule.diffusion.control import Bottleneck, Towards
from chainrule.diffusion.control.bottleneck import Direction, deepest
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.time_grids import time_at_share
from chainrule.methods.base import Drawn, Needs, Steps, Task
from chainrule.methods.chains import OneShot, generate, invert_photos


class Asyrp(OneShot):
    """Moves the network's bottleneck along a direction, for the predicted picture alone.

        x_s = alpha_s x0(x_t; h + dh) + sigma_s eps(x_t; h)        eq. 7

    Kwon, Jeong & Uh, "Diffusion Models Already Have a Semantic Latent Space", 2023, without the
    training: the direction is the way from what h is under the photo's prompt to what it is under
    the task's. The photo is inverted by DDIM under what it shows, and drawn again so.

    Limits: the inversion by DDIM is not exact; what the bottleneck does not decide cannot be moved:
    where the prompt enters at every layer (Stable Diffusion), that is much. h is the middle of a
    U-Net; the block in the middle of a transformer is not the paper's, and tried on tiny ones only.
    """

    kind: Literal["asyrp"] = "asyrp"
    needs = Needs.PHOTO | Needs.PROMPT | Needs.SOURCE
    to_change_more: ClassVar[str] = "raise its scale"
    scale: float = Field(default=1.0, description="How far along the direction it goes.")
    until: float = Field(
        default=0.8, ge=0, le=1, description="The share of the steps that it moves."
    )
    steps: Steps = 50

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        deepest(task.denoiser)  # what has no bottleneck is refused now
        return prepared

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return self.draw_along(Towards(task.denoiser, self.scale), task, on_step)

    def draw_along(self, direction: Direction, task: Task, on_step: OnStep | None = None) -> Drawn:
        """The task's photos moved along a given direction.

        Args:
            direction: Where h should go at each time.
            task: Whose photos.
            on_step: Told after each step.
        """
        chain: dict[str, Any] = {"steps": self.steps, "solver": DDIM(), "on_step": on_step}
        state = invert_photos(task, **chain)
        stop = time_at_share(task.model.schedule.times(self.steps), self.until)
        denoiser = Bottleneck(task.require_photo().denoiser, direction, stop)
        return generate(task, state, denoiser=denoiser, **chain)
