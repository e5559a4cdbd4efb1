"""DiffEdit: Couairon et al., "Diffusion-based semantic image editing with mask guidance", 2023."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.constraints import Inpaint, VisitedReference, mask_for_latents
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import trajectory
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.time_grids import last_steps
from chainrule.methods.base import Drawn, Needs, Steps, Strength, Task
from chainrule.methods.chains import OneShot, generate
from chainrule.methods.chunking import draw_in_parts, encode_photos


class DiffEdit(OneShot):
    """Finds where two prompts disagree about a photo, and redoes that alone.

        M = [mean over noises of |eps(x_t, wanted) - eps(x_t, shown)|, in [0, 1], > threshold]
        x_r = DDIM^-1(photo)    up to ratio r, under what it shows (the paper: under nothing)
        x_s = M DDIM(x_t, wanted) + (1 - M) x_s of the encoding

    Couairon et al., "DiffEdit: Diffusion-based semantic image editing with mask guidance", 2023.
    With a mask, the first step is left out. `strength` is the ratio r. Equal prompts give the
    photo back.

    Limits: where two prompts disagree is not always where the thing is; a thing that is to be
    added has no place yet.
    """

    kind: Literal["diffedit"] = "diffedit"
    needs = Needs.PHOTO | Needs.PROMPT
    strength: Strength = 0.5
    noises: int = Field(default=10, ge=1, description="Under how many noises prompts are compared.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="Above which share is edited.")
    steps: Steps = 50

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return draw_in_parts(task, lambda part: self._draw(part, on_step))

    def _draw(self, task: Task, on_step: OnStep | None) -> Drawn:
        photo, z = task.require_photo(), encode_photos(task)
        mask = photo.mask
        if mask is None:
            mask = find_difference(task, z, noises=self.noises, threshold=self.threshold)
        times = last_steps(task.model.schedule.times(self.steps), self.strength)
        visited = trajectory(photo.denoiser, z, times, solver=DDIM(), on_step=on_step)
        kept = Inpaint(mask_for_latents(mask, z), VisitedReference(visited))
        others = tuple(each for each in task.constraints if not isinstance(each, Inpaint))
        task = replace(task, constraints=(*others, kept))
        start = visited[times[0].item()]
        return generate(task, start, self.steps, strength=self.strength, on_step=on_step)


def find_difference(
    task: Task, z: Tensor, *, at: float = 0.5, noises: int = 10, threshold: float = 0.5
) -> Tensor:
    """Where the task's prompt and its photo's disagree.

    Outliers are clipped at three times the mean, so that one cell does not make all others small;
    where nothing differs the mask is empty.

    Args:
        task: Whose denoisers.
        z: (B, C, h, w), the photo's latents.
        at: The noise level, as a share of the training steps.
        noises: How many noises the difference is averaged over.
        threshold: The share of the greatest difference above which a cell counts.

    Returns:
        (B, 1, h, w) of 0 and 1.
    """
    schedule, shown = task.model.schedule, task.require_photo().denoiser
    t, stream = float(round(at * schedule.last)), task.noise.stream("diffedit/mask")
    contrast = torch.zeros_like(z[:, :1])
    for k in range(noises):
        eps = stream.normal(k, z.shape[1:]).to(z)
        x = schedule.mix(z, eps, t)
        difference = (task.denoiser(x, t).eps - shown(x, t).eps).abs()
        contrast = contrast + difference.mean(dim=1, keepdim=True) / noises
    contrast = contrast.minimum(3 * contrast.mean(dim=(2, 3), keepdim=True))
    low, high = (pick(contrast, dim=(2, 3), keepdim=True) for pick in (torch.amin, torch.amax))
    return (contrast - low > threshold * (high - low)).to(z)
