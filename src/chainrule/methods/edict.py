"""Editing a photo: Wallace, Gokul & Naik, "EDICT", 2022."""

from __future__ import annotations

from typing import ClassVar, Literal

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.edict import EDICT
from chainrule.methods.base import (
    Coupling,
    Drawn,
    Mix,
    Needs,
    Steps,
    Strength,
    Task,
    Turns,
)
from chainrule.methods.chains import OneShot, invert_and_generate


class EDICTEdit(OneShot):
    """Inverts a photo exactly under what it shows, and draws it again under what it should show.

        (x_s, y_s) = EDICT^-1(photo | what it shows)     the last `strength` of the chain
        (x_0, y_0) = EDICT(x_s, y_s | what it should show)

    Wallace, Gokul & Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022.
    Under one prompt both ways the photo's latents return; what two prompts share tends to stay.
    The paper: a strength of 0.8 and a guidance scale of 3 both ways.

    Limits: strong guidance drives EDICT's pair apart; no place is kept by itself.
    """

    kind: Literal["edict"] = "edict"
    needs = Needs.PHOTO | Needs.PROMPT
    to_change_more: ClassVar[str] = "raise its strength, or name a prompt that differs more"
    strength: Strength = 0.8
    steps: Steps = 50
    mix: Mix = 0.93
    turns: Turns = "code"
    coupling: Coupling = "output"

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return invert_and_generate(
            task,
            solver=EDICT(mix=self.mix, turns=self.turns, coupling=self.coupling),
            steps=self.steps,
            strength=self.strength,
            on_step=on_step,
        )
