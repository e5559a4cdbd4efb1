"""What DiffusionCLIP learnt, on other photos: Kim, Kwon & Ye, 2022."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.errors import UserError
from chainrule.methods.base import Drawn, Needs, Situation, Steps, Strength, Task
from chainrule.methods.chains import OneShot, invert_and_generate
from chainrule.methods.diffusion_clip import DiffusionCLIP
from chainrule.models.tuned import Mixed, Tuned, read_tuned
from chainrule.specs import NetworkName


class DiffusionCLIPEdit(OneShot):
    """Inverts a photo under the network as it is, and draws it with weights that were tuned.

        eps = sum_i gamma_i eps_theta_i(x_t, t),  sum_i gamma_i = 1

    Kim, Kwon & Ye, "DiffusionCLIP", 2022: what `diffusion-clip` learnt, on any photo. Several
    changes at once are the mean of what their networks say, weighted (`0.5*FILE`); what the weights
    lack to 1 is the untuned network's, so that one file at 0.5 is half of its change, and two at 1
    are the sum of both. (The paper's weights may change with time; here they do not.)

    Limits: as it was tuned: the same share of the chain, and words only if it was told some.
    """

    kind: Literal["diffusion-clip-edit"] = "diffusion-clip-edit"
    needs = Needs.PHOTO
    to_change_more: ClassVar[str] = "raise the weight of what was tuned, or tune it for longer"
    tuned: dict[NetworkName, float] = Field(
        default={}, description="LoRA files or pipeline folders, with weights: 0.5*FILE."
    )
    strength: Strength = 0.5
    steps: Steps = 80

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """In the bundled world: the steps in which it is tuned there."""
        learnt = DiffusionCLIP.preset(situation)
        same = {"strength": "start", "steps": "inversion_steps"}
        return {own: learnt[name] for own, name in same.items() if name in learnt}

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if not self.tuned:
            raise UserError("there are no tuned weights", "name what diffusion-clip wrote", "tuned")
        tuned = tuple(Tuned(read_tuned(file, task.model), w) for file, w in self.tuned.items())
        return replace(prepared, denoiser=Mixed(task.denoiser, task.model, tuned))

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return invert_and_generate(
            task, solver=DDIM(), steps=self.steps, strength=self.strength, on_step=on_step
        )
