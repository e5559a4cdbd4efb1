"""Blended Diffusion: Avrahami, Lischinski & Fried 2022; Blended Latent Diffusion, 2023."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance.one_step import OneStep
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.losses.base import Checked
from chainrule.losses.cutouts import crop
from chainrule.methods.base import Drawn, Eta, Needs, Steps, Strength, Task, require_heeded
from chainrule.methods.chains import OneShot, add_noise, constrain_to_mask, generate
from chainrule.methods.chunking import draw_in_parts, encode_photos


class BlendedDiffusion(OneShot):
    """Draws what the mask leaves free, pushed by a loss on the one-step guess inside it.

        eps' = eps + scale sigma d L(m * decode(x0(x_t))) / d x_t
        x_s = m x_s + (1 - m) (alpha_s z + sigma_s eps)                   algorithm 1

    Avrahami, Lischinski & Fried, "Blended Diffusion for Text-driven Editing of Natural Images",
    2022; without a loss, their "Blended Latent Diffusion", 2023. The loss (CLIP's distance to a
    text, in the paper) sees random crops.

    Limits: the guess is blurry early on, so that the loss says little there; every push costs a
    backward pass. The paper turns its augmentations in space and draws them anew at each step;
    here they are one set of crops.
    """

    kind: Literal["blended"] = "blended"
    needs = Needs.PHOTO | Needs.MASK
    to_change_more: ClassVar[str] = "raise its scale"
    scale: float = Field(default=30.0, description="How hard the loss pushes.")
    crops: int = Field(default=8, ge=0, description="How many cutouts are judged; 0: the whole.")
    strength: Strength = 1.0
    eta: Eta = 1.0
    steps: Steps = 50

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if prepared.loss is None:
            require_heeded(self, ["scale", "crops"], "without a loss")
        return prepared

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return draw_in_parts(task, lambda part: self._draw(part, on_step))

    def _draw(self, task: Task, on_step: OnStep | None) -> Drawn:
        denoiser = task.denoiser
        if task.loss is not None:
            loss = crop(task.loss, self.crops, cut_power=0.3) if self.crops else task.loss
            denoiser = OneStep(denoiser, _MaskedDecoder(task), Checked(loss), self.scale)
        return generate(
            constrain_to_mask(task),
            add_noise(task, encode_photos(task), self.steps, self.strength),
            self.steps,
            denoiser=denoiser,
            solver=DDPM(task.noise.stream("ddpm"), self.eta),
            strength=self.strength,
            on_step=on_step,
        )


@dataclass(frozen=True, eq=False)
class _MaskedDecoder:
    """Decodes, and hides what the mask does not leave free."""

    task: Task

    def __call__(self, latents: Tensor) -> Tensor:
        images = self.task.model.decode(latents)
        mask = self.task.require_photo().mask
        return images if mask is None else mask.to(images) * images
