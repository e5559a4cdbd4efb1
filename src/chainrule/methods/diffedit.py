"""DiffEdit: Couairon et al., "DiffEdit: Diffusion-based semantic image editing with mask guidance", 2023.

    M = [mean over n noises of |eps(x_t, wanted) - eps(x_t, shown)|, scaled to [0, 1], > threshold]     step 1
    x_r = DDIM^-1(photo)  up to ratio r, under what it shows (the paper: under nothing)                step 2
    x_s = M DDIM(x_t, wanted) + (1 - M) x_s of the encoding                                            step 3

Finds by itself where the two prompts disagree about the photo, and redoes that alone. With a mask, step 1 is left out.
Limits: where two prompts disagree is not always where the thing is; a thing that is to be added has no place yet.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.diffusion.constraints import Inpaint, Visited
from chainrule.diffusion.constraints.inpaint import mask_for_latents
from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Result, Task, by_parts, encoded, generate
from chainrule.diffusion.sampling import visited
from chainrule.diffusion.schedule import tail
from chainrule.diffusion.solvers.ddim import DDIM

NOISES = 1 << 27
"""The first draw of the noise under which the prompts are compared."""


def diffedit(
    task: Task,
    *,
    strength: float = 0.5,
    noises: int = 10,
    threshold: float = 0.5,
    steps: int = 50,
    on_step: OnStep | None = None,
) -> Result:
    """The task's photos, as its prompt says, where that differs from what the photos are said to show.

    `strength` is the ratio r of step 2; the paper's is 0.5, for the mask too. Equal prompts give the photos back.
    """

    def work(part: Task) -> Result:
        photo, z = part.edited(), encoded(part)
        mask = difference(part, z, noises=noises, threshold=threshold) if photo.mask is None else photo.mask
        times = tail(part.model.schedule.times(steps), strength)
        trail = visited(photo.denoiser, z, times, solver=DDIM(), on_step=on_step)
        wide = functional.interpolate(mask, photo.images.shape[-2:])
        kept = Inpaint(mask_for_latents(mask, z), Visited(trail))
        others = tuple(each for each in part.constraints if not isinstance(each, Inpaint))
        part = replace(part, photo=replace(photo, mask=wide), constraints=(*others, kept))
        return generate(part, part.denoiser, trail[times[0].item()], steps, strength=strength, on_step=on_step)

    return by_parts(task, work)


@torch.no_grad()
def difference(task: Task, z: Tensor, *, at: float = 0.5, noises: int = 10, threshold: float = 0.5) -> Tensor:
    """Where the task's prompt and its photo's disagree about the photo's latents `z`, (B, 1, h, w) of 0 and 1.

    `at` is the noise level as a share of the training steps. Outliers are clipped at three times the mean, so that one
    cell does not make all others small; where nothing differs the mask is empty.
    """
    schedule, shown = task.model.schedule, task.edited().denoiser
    t = float(round(at * schedule.last))
    contrast = torch.zeros_like(z[:, :1])
    for k in range(noises):
        eps = task.noise.normal(NOISES + k, z.shape[1:]).to(z)
        x = schedule.alpha(t) * z + schedule.sigma(t) * eps
        contrast += (task.denoiser(x, t).eps - shown(x, t).eps).abs().mean(dim=1, keepdim=True) / noises
    contrast = contrast.minimum(3 * contrast.mean(dim=(2, 3), keepdim=True))
    low, high = (pick(contrast, dim=(2, 3), keepdim=True) for pick in (torch.amin, torch.amax))
    return (contrast - low > threshold * (high - low)).to(z)
