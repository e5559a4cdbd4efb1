"""A photo there and back: what inversion and the autoencoder leave of it."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.edict import EDICT
from chainrule.methods.base import (
    Coupling,
    Drawn,
    Mix,
    Needs,
    Result,
    Steps,
    Strength,
    Task,
    Turns,
)
from chainrule.methods.chains import OneShot, invert_and_generate, warn_if_chain_is_lossy


class Reconstruction(OneShot):
    """Takes a photo to its noise and back under one description, by EDICT.

    Wallace, Gokul & Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022.
    What is lost is what the autoencoder loses, and rounding.

    Limits: with little `mix`, few steps or strong guidance the pair of latents comes apart.
    """

    kind: Literal["reconstruction"] = "reconstruction"
    needs = Needs.PHOTO
    to_change_more: ClassVar[str] = ""
    strength: Strength = 1.0
    steps: Steps = 50
    mix: Mix = 0.93
    turns: Turns = "code"
    coupling: Coupling = "output"

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        task = replace(task, constraints=())
        return invert_and_generate(
            task,
            solver=EDICT(mix=self.mix, turns=self.turns, coupling=self.coupling),
            steps=self.steps,
            strength=self.strength,
            denoiser=task.require_photo().denoiser,
            on_step=on_step,
        )

    def result(self, task: Task, state: Drawn) -> Result:
        found = super().result(task, state)
        warn_if_chain_is_lossy(task, found.images)
        return found
