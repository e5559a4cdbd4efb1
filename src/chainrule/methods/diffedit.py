"""DiffEdit: Couairon et al., "Diffusion-based semantic image editing with mask guidance", 2023."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.constraints import Inpaint, VisitedReference, mask_for_latents
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import trajectory
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.time_grids import last_steps
from chainrule.methods.base import Drawn, Needs, Steps, Strength, Task, require_heeded
from chainrule.methods.chains import OneShot, generate
from chainrule.methods.chunking import draw_in_parts, encode_photos

MaskRule = Literal["paper", "diffusers"]
"""Whose way it is to make a mask of a difference."""


class DiffEdit(OneShot):
    """Finds where two prompts disagree about a photo, and redoes that alone.

        M = [mean over noises of |eps(x_t, wanted) - eps(x_t, shown)|, in [0, 1], > threshold]
        x_r = DDIM^-1(photo)    up to ratio r, under what it shows (the paper: under nothing)
        x_s = M DDIM(x_t, wanted) + (1 - M) x_s of the encoding

    Couairon et al., "DiffEdit: Diffusion-based semantic image editing with mask guidance", 2023.
    With a mask, the first step is left out. `strength` is the ratio r. Equal prompts give the
    photo back.

    Both masks clip the difference at `mask_clip` times its mean. "paper" then scales it from its
    least to its greatest value to [0, 1], at half the noise of training (t = 500). "diffusers" does
    what `StableDiffusionDiffEditPipeline.generate_mask` does, on each photo by itself: nothing is
    scaled, so that with a threshold of 0.5 a cell counts above 1.5 times the mean, at the first of
    the last `mask_strength` of the chain's steps (t = 481 for 50). Of 48 bundled pictures the two
    differ in 37; with the pixels that truly change they share 0.39 (paper) and 0.33 (diffusers) of
    the union, by `benchmarks/references.py`.

    Limits: where two prompts disagree is not always where the thing is; a thing that is to be
    added has no place yet.
    """

    kind: Literal["diffedit"] = "diffedit"
    needs = Needs.PHOTO | Needs.PROMPT
    to_change_more: ClassVar[str] = "raise its strength, or lower its threshold"
    strength: Strength = 0.5
    noises: int = Field(default=10, ge=1, description="Under how many noises prompts are compared.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="Above which share is edited.")
    mask_rule: MaskRule = Field(
        default="paper", description="Whose mask is found: the paper's, or diffusers'."
    )
    mask_clip: float = Field(
        default=3.0, gt=0, description="At how many times its mean the difference is clipped."
    )
    mask_strength: Strength = Field(
        default=0.5, description="How much noise there is where the prompts are compared."
    )
    steps: Steps = 50

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if prepared.require_photo().mask is not None:
            found = ("noises", "threshold", "mask_rule", "mask_clip", "mask_strength")
            require_heeded(self, found, "with a mask that is given")
        elif self.mask_rule == "diffusers":
            last_steps(torch.arange(self.steps + 1), self.mask_strength)  # refused now
        return prepared

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return draw_in_parts(task, lambda part: self._draw(part, on_step))

    def _draw(self, task: Task, on_step: OnStep | None) -> Drawn:
        photo, z = task.require_photo(), encode_photos(task)
        mask = photo.mask
        if mask is None:
            mask = find_difference(
                task,
                z,
                rule=self.mask_rule,
                clip=self.mask_clip,
                strength=self.mask_strength,
                noises=self.noises,
                threshold=self.threshold,
                steps=self.steps,
            )
        times = last_steps(task.model.schedule.times(self.steps), self.strength)
        visited = trajectory(photo.denoiser, z, times, solver=DDIM(), on_step=on_step)
        kept = Inpaint(mask_for_latents(mask, z), VisitedReference(visited))
        others = tuple(each for each in task.constraints if not isinstance(each, Inpaint))
        task = replace(task, constraints=(*others, kept))
        start = visited[times[0].item()]
        return generate(task, start, self.steps, strength=self.strength, on_step=on_step)


def find_difference(
    task: Task,
    z: Tensor,
    *,
    rule: MaskRule = "paper",
    clip: float = 3.0,
    strength: float = 0.5,
    noises: int = 10,
    threshold: float = 0.5,
    steps: int = 50,
) -> Tensor:
    """Where the task's prompt and its photo's disagree.

    Outliers are clipped at some times the mean, so that one cell does not make all others small;
    where nothing differs the mask is empty.

    Args:
        task: Whose denoisers.
        z: (B, C, h, w), the photo's latents.
        rule: Whose mask it is, "paper" or "diffusers"; see `DiffEdit`.
        clip: At how many times its mean the difference is clipped.
        strength: How much noise there is, as a share of the training steps, or of the chain.
        noises: How many noises the difference is averaged over.
        threshold: The share of the greatest difference above which a cell counts.
        steps: Of the chain that diffusers takes its noise level from.

    Returns:
        (B, 1, h, w) of 0 and 1.
    """
    schedule, shown = task.model.schedule, task.require_photo().denoiser
    t, stream = float(round(strength * schedule.last)), task.noise.stream("diffedit/mask")
    if rule == "diffusers":
        t = last_steps(schedule.times(steps), strength)[0].item()
    contrast = torch.zeros_like(z[:, :1])
    for k in range(noises):
        eps = stream.normal(k, z.shape[1:]).to(z)
        x = schedule.mix(z, eps, t)
        difference = (task.denoiser(x, t).eps - shown(x, t).eps).abs()
        contrast = contrast + difference.mean(dim=1, keepdim=True) / noises
    most = clip * contrast.mean(dim=(2, 3), keepdim=True)
    contrast = contrast.minimum(most)
    if rule == "diffusers":
        return (contrast > threshold * most).to(z)
    low, high = (pick(contrast, dim=(2, 3), keepdim=True) for pick in (torch.amin, torch.amax))
    return (contrast - low > threshold * (high - low)).to(z)
