"""Classifier guidance on the one-step guess of the image: the baseline of the DOODL paper (Wallace et al. 2023).

    eps' = eps + scale sigma d loss(decode(x0(x_t))) / d x_t        section 3.2; see `chainrule.diffusion.guidance.one_step`

Any loss on images can push each step of the chain; a photo is invert_photos half the way first (section 5.3).
Limits: the guess of a noisy latent is blurry, so early pushes point elsewhere; each costs a backward pass.
"""

from __future__ import annotations

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance.one_step import OneStep
from chainrule.methods.base import Result, Task, generate, invert_photos
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.solvers.edict import EDICT

_DDIM, _EDICT = DDIM(), EDICT()


def one_step(task: Task, *, scale: float, steps: int = 50, solver: Solver = _DDIM, on_step: OnStep | None = None) -> Result:
    """The images of the task's seeds, each step pushed by the loss of the guessed image."""
    return generate(task, _pushed(task, scale), task.x_T, steps, solver=solver, on_step=on_step)


def one_step_edit(
    task: Task,
    *,
    scale: float,
    strength: float = 0.5,
    steps: int = 50,
    solver: Solver = _EDICT,
    on_step: OnStep | None = None,
) -> Result:
    """The task's photos, invert_photos half the way (section 5.3: all the way loses them) and pushed on the way back."""
    state = invert_photos(task, steps=steps, solver=solver, strength=strength, on_step=on_step)
    return generate(task, _pushed(task, scale), state, steps, solver=solver, strength=strength, on_step=on_step)


def _pushed(task: Task, scale: float) -> OneStep:
    return OneStep(task.denoiser, task.model.decode, task.wanted(), scale)
