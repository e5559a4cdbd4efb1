"""DDIM inversion: Song, Meng & Ermon, "Denoising Diffusion Implicit Models", 2021."""

from __future__ import annotations

from typing import ClassVar, Literal

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.methods.base import Drawn, Needs, Steps, Strength, Task
from chainrule.methods.chains import OneShot, invert_and_generate


class DDIMInversion(OneShot):
    """Inverts a photo by DDIM under what it shows, and draws it under what it should show.

    Song, Meng & Ermon, "Denoising Diffusion Implicit Models", 2021, section 4.3: the usual
    inversion, which is not exact, and the baseline of those that are.

    Limits: strong guidance drives the inversion off the photo; no place is kept by itself.
    """

    kind: Literal["ddim"] = "ddim"
    needs = Needs.PHOTO | Needs.PROMPT
    to_change_more: ClassVar[str] = "raise its strength, or name a prompt that differs more"
    strength: Strength = 0.8
    steps: Steps = 50

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return invert_and_generate(
            task,
            solver=DDIM(),
            steps=self.steps,
            strength=self.strength,
            on_step=on_step,
        )
