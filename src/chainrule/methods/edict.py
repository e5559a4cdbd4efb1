"""Editing a photo: Wallace, Gokul & Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022.

    (x_s, y_s) = EDICT^-1(photo | what it shows)        the last `strength` of the chain, backwards
    (x_0, y_0) = EDICT(x_s, y_s | what it should show)

The inversion is exact, so under one prompt both ways the photo's latents return; what two prompts share tends to stay.
With DDIM as the solver it is the usual inexact inversion (Song et al. 2021), the baseline.
Limits: strong guidance drives EDICT's pair apart and DDIM's inversion off the photo; no place is kept by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Result, Task, generate, invert_photos
from chainrule.diffusion.sampling import invert, sample_state
from chainrule.diffusion.schedule import tail
from chainrule.diffusion.solvers.base import State, Solver
from chainrule.diffusion.solvers.edict import EDICT

_EDICT = EDICT()


def edict(
    task: Task, *, strength: float = 0.8, steps: int = 50, solver: Solver = _EDICT, on_step: OnStep | None = None
) -> Result:
    """The task's photos, as its prompt says. The paper: `strength` 0.8 and a guidance scale of 3 both ways.

    More `strength` changes more. Raises UserError if the task has no photos.
    """
    state = invert_photos(task, steps=steps, solver=solver, strength=strength, on_step=on_step)
    return generate(task, task.denoiser, state, steps, solver=solver, strength=strength, on_step=on_step)


def reconstruction(
    task: Task, *, strength: float = 1.0, steps: int = 50, solver: Solver = _EDICT, on_step: OnStep | None = None
) -> Result:
    """The task's photos there and back under one denoiser: what inversion and the autoencoder leave of them."""
    task = replace(task, constraints=())
    state = invert_photos(task, steps=steps, solver=solver, strength=strength, on_step=on_step)
    return generate(task, task.edited().denoiser, state, steps, solver=solver, strength=strength, on_step=on_step)


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """A photo's inversion, and what the way there and back does to it.

    `state` is the inversion, `images` what comes back (B, 3, H, W); `error` |z' - z| / |z| of the latents, `apart`
    |x - y| / |x| of the pair at the noisy end (0 for a solver without a pair), `spread` its standard deviation (1 for
    the noise that the network knows).
    """

    state: State
    images: Tensor
    error: float
    apart: float
    spread: float


@torch.no_grad()
def round_trip(
    task: Task,
    *,
    strength: float = 1.0,
    steps: int = 50,
    solver: Solver = _EDICT,
    dtype: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> RoundTrip:
    """Invert the task's photos and come back, with latents of `dtype`."""
    photo, model = task.edited(), task.model
    times = tail(model.schedule.times(steps), strength)
    z = model.encode(photo.images).to(dtype)
    state = invert(photo.denoiser, z, times, solver=solver, on_step=on_step)
    back = solver.final(sample_state(photo.denoiser, state, times, solver=solver, on_step=on_step))
    error, apart = (((a - b).norm() / b.norm()).item() for a, b in ((back, z), (state[-1], state[0])))
    return RoundTrip(state, model.decode(back.float()), error, apart, state[0].std().item())
