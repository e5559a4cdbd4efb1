"""ILVR: Choi et al., "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models", 2021.

    x_s = x'_s + phi(y_s) - phi(x'_s)        after each step from share `start` to share `stop` of the chain

The picture is drawn from noise by DDPM, under the prompt, and takes its low frequencies from the photo: shapes and
colours in the large. A greater factor N leaves more freedom, and so does an earlier stop; with `stop` 1 the result's
low frequencies are exactly the photo's (`chainrule.diffusion.constraints.LowPass`).
Limits: what is large cannot change, colours of large things least of all; N counts latent pixels, so that on Stable
Diffusion 2 is already 16 pixels of the picture.
"""

from __future__ import annotations

from dataclasses import replace

from chainrule.diffusion.constraints import LowPass, Noised
from chainrule.diffusion.constraints.low_pass import LOW
from chainrule.errors import UserError
from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Result, Task, encoded, generate
from chainrule.diffusion.solvers.ddpm import DDPM


def ilvr(
    task: Task,
    *,
    factor: int = 4,
    start: float = 0.0,
    stop: float = 0.5,
    eta: float = 1.0,
    steps: int = 50,
    on_step: OnStep | None = None,
) -> Result:
    """New images of the task's seeds with the low frequencies of its photos."""
    if not 0.0 <= start <= stop <= 1.0:
        raise UserError(f"the low frequencies are kept from share {start} to share {stop}: they rise, from 0 to 1")
    times = task.model.schedule.times(steps)
    first, last = (times[round(share * steps)].item() for share in (start, stop))
    photos = Noised(task.model.schedule, encoded(task), task.noise, LOW)
    kept = replace(task, constraints=(LowPass(photos, factor, first, last), *task.constraints))
    return generate(kept, task.denoiser, task.x_T, steps, solver=DDPM(task.noise, eta), on_step=on_step)
