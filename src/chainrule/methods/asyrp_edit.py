"""What Asyrp learnt, on other photos: Kwon, Jeong & Uh, 2023."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from chainrule.diffusion.control import Bottleneck, Several
from chainrule.diffusion.control.bottleneck import bottleneck
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.diffusion.time_grids import time_at_share
from chainrule.errors import UserError
from chainrule.methods.asyrp_times import NEVER, find_boost
from chainrule.methods.asyrp_trained import AsyrpTrained
from chainrule.methods.base import Drawn, Needs, Situation, Steps, Task
from chainrule.methods.chains import OneShot, generate, invert_photos
from chainrule.models.directions import FIELD, Saved, read_direction
from chainrule.specs import NetworkName

BOOST = "asyrp/boost"
"""The stream of the noise that is added at last."""


class AsyrpEdit(OneShot):
    """Inverts a photo, and draws it with its bottleneck moved along directions that were trained.

        x_s = alpha_s P_t(x_t; h + sum_i c_i f_i(h)) + sigma_s D_t(x_t; h)      from T to t_edit
        x_s = DDPM's step (Ho et al. 2020)                                      from t_boost on

    Kwon, Jeong & Uh, "Diffusion Models Already Have a Semantic Latent Space", 2023, sections 3.3 to
    4.1: what `asyrp-trained` learnt, on any photo, scaled (`0.5*FILE`; less than 0 undoes it) and
    several at once, each until its own t_edit. The noise that comes at last from the lowest t_boost
    mends what the direction spoils, and also changes small things; where every scale is 0 there is
    nothing to mend, and the photo comes back as inverted. Photo and edit are told what the photo
    shows, if that is said; the direction was learnt without.

    Limits: the inversion by DDIM is not exact; shifts are for photos of the size of the training.
    """

    kind: Literal["asyrp-edit"] = "asyrp-edit"
    needs = Needs.PHOTO
    to_change_more: ClassVar[str] = "raise the scale of its directions, or train them for longer"
    directions: dict[NetworkName, float] = Field(
        default={}, description="Files that asyrp-trained wrote, with scales: 0.5*FILE."
    )
    until: float | None = Field(
        default=None, ge=0, le=1, description="The share of the steps that they move; the files'."
    )
    boost: float | None = Field(
        default=None, ge=0, le=1, description="The share of the steps with noise; the files'."
    )
    steps: Steps = 40

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """In the bundled world: the steps in which it is trained there."""
        learnt = AsyrpTrained.preset(situation)
        return {"steps": learnt["steps"]} if learnt else {}

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if not self.directions:
            raise UserError("there are no directions", "name what asyrp-trained wrote", FIELD)
        self.read(task)  # what is no direction of this network and size is refused now
        return prepared

    def read(self, task: Task) -> list[tuple[Saved, float]]:
        """The directions that move something, with their scales."""
        told, times = task.require_photo().denoiser, task.model.schedule.times(self.steps)
        h = bottleneck(told.select([0]), task.x_T[:1], times[0].item())[:1].detach()
        each = [(read_direction(file, h), scale) for file, scale in self.directions.items()]
        return [(saved, scale) for saved, scale in each if scale]

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        found, times = self.read(task), task.model.schedule.times(self.steps)
        denoiser, t_boost = task.require_photo().denoiser, NEVER
        if found:
            stops = [saved.t_edit for saved, _ in found]
            if self.until is not None:
                stops = [time_at_share(times, self.until)] * len(found)
            moved = [
                replace(saved.learnt, scale=scale, stop=stop)
                for (saved, scale), stop in zip(found, stops, strict=True)
            ]
            denoiser = Bottleneck(denoiser, Several(tuple(moved)), min(stops))
            t_boost = min(saved.t_boost for saved, _ in found)
            if self.boost is not None:
                t_boost = find_boost(times, self.boost)
        x_T = invert_photos(task, steps=self.steps, solver=DDIM(), on_step=on_step)
        noise = task.noise.stream(BOOST)
        solver = DDIM() if t_boost == NEVER else DDPM(noise, below=t_boost)
        return generate(task, x_T, self.steps, denoiser=denoiser, solver=solver, on_step=on_step)
