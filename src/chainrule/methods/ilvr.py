"""ILVR: Choi et al., "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models"."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from chainrule.diffusion.constraints import LowPass, NoisedReference
from chainrule.diffusion.constraints.low_pass import low_pass
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.diffusion.time_grids import count_steps
from chainrule.errors import UserError
from chainrule.methods.base import Drawn, Eta, Needs, Steps, Task
from chainrule.methods.chains import OneShot, generate
from chainrule.methods.chunking import encode_photos


class ILVR(OneShot):
    """Draws from noise, and takes the low frequencies from the photo.

        x_s = x'_s + phi(y_s) - phi(x'_s)      from share `start` to share `stop` of the chain

    Choi et al., "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models", 2021.
    Shapes and colours in the large stay. A greater factor leaves more freedom, and so does an
    earlier stop; with a stop of 1 the low frequencies are exactly the photo's.

    Limits: what is large cannot change, colours of large things least of all; the factor counts
    latent pixels, so that on Stable Diffusion 2 is already 16 pixels of the picture.
    """

    kind: Literal["ilvr"] = "ilvr"
    needs = Needs.PHOTO
    to_change_more: ClassVar[str] = "raise its factor, or lower its stop"
    factor: int = Field(
        default=4, ge=1, description="How coarse what is kept is, in latent pixels."
    )
    start: float = Field(default=0.0, ge=0, le=1, description="The share where keeping begins.")
    stop: float = Field(default=0.5, ge=0, le=1, description="The share where keeping ends.")
    eta: Eta = 1.0
    steps: Steps = 50

    @model_validator(mode="after")
    def _check(self) -> ILVR:
        if self.start > self.stop:
            raise UserError(
                f"keeping starts at share {self.start} and stops at {self.stop}",
                "let it rise",
                "stop",
            )
        if count_steps(self.steps, self.stop) == 0:
            raise UserError(
                f"keeping stops at share {self.stop:g} of {self.steps} "
                f"step{'s' * (self.steps > 1)}, before the first is done: nothing would be kept",
                "choose a later stop, or more steps",
                "stop",
            )
        return self

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        low_pass(task.x_T, self.factor)  # a picture that is too small for it is refused now
        return prepared

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        times = task.model.schedule.times(self.steps)
        first, last = (
            times[count_steps(self.steps, share)].item() for share in (self.start, self.stop)
        )
        stream = task.noise.stream("ilvr/reference")
        photos = NoisedReference(task.model.schedule, encode_photos(task), stream)
        kept = LowPass(photos, self.factor, first, last)
        task = replace(task, constraints=(kept, *task.constraints))
        solver = DDPM(task.noise.stream("ddpm"), self.eta)
        return generate(task, task.x_T, self.steps, solver=solver, on_step=on_step)
