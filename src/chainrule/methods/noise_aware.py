"""Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021: guidance by a noise-aware classifier.

    x_s = N(mu - scale Sigma d energy(x_t, t) / d x_t, Sigma)        algorithm 1, DDPM: eta 1
    eps' = eps + scale sigma d energy(x_t, t) / d x_t                algorithm 2, DDIM: eta below 1

The classifier sees the noisy latent itself, so its gradient needs no guess of the finished picture and no backward pass
of the generator. With a photo, the chain starts at it, under noise.
Limits: somebody must have trained the classifier on the model's noise; the bundled one knows the bundled world's
shapes. The gradient is right on average over what may still come, not for the picture that will.
"""

from __future__ import annotations

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance.base import Energy
from chainrule.diffusion.guidance.noise_aware import NoiseAware, NoiseAwareMean
from chainrule.methods.base import Result, Task, encoded, generate, noised
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.ddpm import DDPM


def noise_aware(
    task: Task,
    *,
    energy: Energy,
    scale: float,
    strength: float = 1.0,
    eta: float = 0.0,
    steps: int = 50,
    on_step: OnStep | None = None,
) -> Result:
    """The images of the task's seeds, or its photos redone, each step pushed by `energy` of the noisy latent."""
    start = task.x_T if task.photo is None else noised(task, encoded(task), steps, strength)
    denoiser: Denoiser = task.denoiser
    solver: Solver = DDPM(task.noise, eta)
    if eta < 1.0:
        denoiser = NoiseAware(denoiser, energy, scale)
    else:
        solver = NoiseAwareMean(DDPM(task.noise, eta), energy, scale)
    return generate(task, denoiser, start, steps, solver=solver, strength=strength, on_step=on_step)
