"""Blended Diffusion: Avrahami, Lischinski & Fried 2022; without a loss, Blended Latent Diffusion (2023).

    eps' = eps + scale sigma d L(m * decode(x0(x_t))) / d x_t,    x_s = m x_s + (1 - m) (alpha_s z + sigma_s eps)

What the mask leaves free is drawn under the prompt and, if there is a loss (CLIP's distance to a text, in the paper),
pushed by it on the one-step guess, masked and cropped at random; the rest is the photo at each noise level
(algorithm 1). A photo that is to be kept `exact` has its own pixels outside the mask at the end.
Limits: the guess is blurry early on, so that the loss says little there; every push costs a backward pass. The paper
turns its augmentations in space and draws them anew at each step; here they are one set of crops.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance.one_step import OneStep
from chainrule.losses.cutouts import cropped
from chainrule.methods.base import Result, Task, by_parts, encoded, generate, masked, noised
from chainrule.diffusion.solvers.ddpm import DDPM


def blended(
    task: Task,
    *,
    scale: float = 30.0,
    crops: int = 8,
    strength: float = 1.0,
    eta: float = 1.0,
    steps: int = 50,
    on_step: OnStep | None = None,
) -> Result:
    """The task's photos, changed where their mask is 1. Raises UserError if they have none."""

    def work(part: Task) -> Result:
        inside, denoiser = masked(part), part.denoiser
        if part.loss is not None:
            loss = cropped(part.loss, crops, cut_power=0.3) if crops else part.loss
            denoiser = OneStep(denoiser, _Seen(part), loss, scale)
        start = noised(part, encoded(part), steps, strength)
        solver = DDPM(part.noise, eta)
        return generate(inside, denoiser, start, steps, solver=solver, strength=strength, on_step=on_step)

    return by_parts(task, work)


@dataclass(frozen=True, eq=False)
class _Seen:
    """Decodes, and hides what the mask does not leave free."""

    task: Task

    def __call__(self, latents: Tensor) -> Tensor:
        images = self.task.model.decode(latents)
        mask = self.task.edited().mask
        return images if mask is None else mask.to(images) * images
