"""SDEdit: Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", 2022.

    x_t = alpha_t z + sigma_t eps,    then the last `strength` of the chain under the prompt        algorithm 1

A picture, or a painting in coarse strokes, is fill_in under noise as far as `strength` goes and drawn again: strokes
become things, and things become what the prompt says. Repeated, it goes further from the same strength (appendix C).
With a mask the rest is kept (algorithm 2).
Limits: little strength changes little, much strength forgets the picture; there is no strength that does neither.
"""

from __future__ import annotations

from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Result, Task, generate, noised, untouched
from chainrule.diffusion.solvers.ddpm import DDPM, STEPS

AGAIN = 1 << 26
"""The first draw of the noise of repeats."""


def sdedit(
    task: Task,
    *,
    strength: float = 0.6,
    repeats: int = 1,
    eta: float = 0.0,
    steps: int = 50,
    on_step: OnStep | None = None,
) -> Result:
    """The task's photos, redone `repeats` times.

    At strength 0 they come back as the autoencoder leaves them; 1 is the seeds' own plain images. `eta` 1 is the
    paper's stochastic equation, 0 the ordinary one (DDIM). Raises UserError if the task has no photos.
    """
    result = untouched(task)
    if strength == 0.0:
        return result
    for k in range(repeats):
        start = noised(task, result.latents, steps, strength, AGAIN + k if k else 0)
        solver = DDPM(task.noise, eta, STEPS + k * steps)
        result = generate(task, task.denoiser, start, steps, solver=solver, strength=strength, on_step=on_step)
    return result
