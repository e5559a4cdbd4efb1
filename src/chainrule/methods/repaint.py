"""RePaint: Lugmayr et al., "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", 2022, algorithm 1.

    x_s^known = alpha_s z + sigma_s eps,    x_s = m x_s^unknown + (1 - m) x_s^known        eq. 8

What the mask leaves free is drawn from noise by DDPM, under the prompt; the rest is the photo at each noise level. So
that both halves agree, the chain jumps back up by `jump` steps and comes down again, `repeats` times in all (section
4.2): on a time grid that goes up and down.
Limits: about `repeats` times the steps of a plain chain; of a latent model, what is known passes the autoencoder, so
that pixels stay to its precision (exactly, if the photo is asked to be kept `exact`).
"""

from __future__ import annotations

from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Result, Task, generate, masked
from chainrule.diffusion.schedule import add_jumps
from chainrule.diffusion.solvers.ddpm import DDPM


def repaint(
    task: Task,
    *,
    jump: int = 10,
    repeats: int = 10,
    eta: float = 1.0,
    steps: int = 50,
    on_step: OnStep | None = None,
) -> Result:
    """The task's photos, filled where their mask is 1. Raises UserError if they have none."""
    return generate(
        masked(task),
        task.denoiser,
        task.x_T,
        steps,
        solver=DDPM(task.noise, eta),
        grid=lambda schedule, steps: add_jumps(schedule.times(steps), jump, repeats),
        on_step=on_step,
    )
