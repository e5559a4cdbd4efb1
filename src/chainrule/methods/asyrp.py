"""Asyrp: Kwon, Jeong & Uh, "Diffusion Models Already Have a Semantic Latent Space", 2023, without the training.

    x_s = alpha_s x0(x_t; h + dh) + sigma_s eps(x_t; h)        eq. 7

The photo is invert_photos by DDIM under what it shows, and drawn again with the U-Net's bottleneck h moved along a direction
for the predicted picture alone, down to a share `until` of the steps. Given no direction, it is the way from what h is
under the photo's prompt to what it is under the task's, which needs no training.
Limits: U-Nets only; the inversion by DDIM is not exact; what the bottleneck does not decide cannot be moved: where the
prompt enters at every layer (Stable Diffusion), that is much.
"""

from __future__ import annotations

from chainrule.diffusion.control import Bottleneck, Towards
from chainrule.diffusion.control.bottleneck import Direction
from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Result, Task, generate, invert_photos
from chainrule.diffusion.schedule import during
from chainrule.diffusion.solvers.ddim import DDIM

_DDIM = DDIM()


def asyrp(
    task: Task,
    *,
    direction: Direction | None = None,
    scale: float = 1.0,
    until: float = 0.8,
    steps: int = 50,
    on_step: OnStep | None = None,
) -> Result:
    """The task's photos moved along `direction` (None: `scale` times the way to the task's prompt)."""
    state = invert_photos(task, steps=steps, solver=_DDIM, on_step=on_step)
    stop = during(task.model.schedule.times(steps), until)
    denoiser = Bottleneck(task.edited().denoiser, direction or Towards(task.denoiser, scale), stop)
    return generate(task, denoiser, state, steps, solver=_DDIM, on_step=on_step)
