"""Classifier guidance on the one-step guess: the baseline of Wallace et al. 2023 (DOODL)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance.one_step import OneStep
from chainrule.diffusion.solvers.edict import EDICT
from chainrule.losses.base import Checked
from chainrule.methods.base import (
    Coupling,
    Drawn,
    Mix,
    Needs,
    Situation,
    Steps,
    Strength,
    Task,
    Turns,
)
from chainrule.methods.chains import OneShot, generate, invert_and_generate

FAITHFUL_SCALES = {"classifier": 5.0, "text": 30.0, "aesthetic": 30.0, "image": 300.0}
"""The baseline's of the paper's section 5. Of aesthetics it names none; of personalisation it says
"much higher" than that of text."""


class OneStepGuidance(OneShot):
    """Pushes each step of the chain by the loss of the guessed image.

        eps' = eps + scale sigma d loss(decode(x0(x_t))) / d x_t        section 3.2

    The baseline of Wallace et al., "End-to-End Diffusion Latent Optimization Improves Classifier
    Guidance", 2023. Any loss on images can push; a photo is inverted half the way first, by EDICT
    (section 5.3: all the way loses it).

    Limits: the guess of a noisy latent is blurry, so early pushes point elsewhere; each costs a
    backward pass.
    """

    kind: Literal["one-step"] = "one-step"
    needs = Needs.LOSS
    to_change_more: ClassVar[str] = "raise its scale, or its strength"
    with_photo = ("strength", "mix", "turns", "coupling")
    scale: float = Field(default=5.0, description="How hard the loss pushes.")
    strength: Strength = 0.5
    steps: Steps = 50
    mix: Mix = 0.93
    turns: Turns = "code"
    coupling: Coupling = "output"

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        push = OneStep(task.denoiser, task.model.decode, Checked(task.require_loss()), self.scale)
        if task.photo is None:
            return generate(task, task.x_T, self.steps, denoiser=push, on_step=on_step)
        return invert_and_generate(
            task,
            solver=EDICT(mix=self.mix, turns=self.turns, coupling=self.coupling),
            steps=self.steps,
            strength=self.strength,
            denoiser=push,
            on_step=on_step,
        )

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        if situation.name == "faithful":
            return {"scale": FAITHFUL_SCALES.get(situation.loss, FAITHFUL_SCALES["classifier"])}
        return super().preset(situation) | {"scale": 30.0}
