"""A photo there and back: what inversion and the autoencoder leave of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.edict import EDICT
from chainrule.methods.base import (
    TUNED_MIX,
    Drawn,
    Mix,
    Needs,
    Situation,
    Steps,
    Strength,
    Task,
)
from chainrule.methods.chains import OneShot, generate, invert_photos


class Reconstruction(OneShot):
    """Takes a photo to its noise and back under one description, by EDICT.

    Wallace, Gokul & Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022.
    What is lost is what the autoencoder loses, and rounding.

    Limits: with little `mix`, few steps or strong guidance the pair of latents comes apart.
    """

    kind: Literal["reconstruction"] = "reconstruction"
    needs = Needs.PHOTO
    strength: Strength = 1.0
    steps: Steps = 50
    mix: Mix = 0.93

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        task = replace(task, constraints=())
        chain: dict[str, Any] = {
            "steps": self.steps,
            "solver": EDICT(mix=self.mix),
            "strength": self.strength,
            "on_step": on_step,
        }
        start = invert_photos(task, **chain)
        return generate(task, start, denoiser=task.require_photo().denoiser, **chain)

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        mix = {"mix": TUNED_MIX} if situation.name == "tuned" else {}
        return super().preset(situation) | mix
