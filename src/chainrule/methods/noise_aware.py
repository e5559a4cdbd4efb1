"""Guidance by a noise-aware classifier (Dhariwal & Nichol 2021), the other baseline of the DOODL paper."""

from __future__ import annotations

from chainrule.gradient.base import OnStep
from chainrule.guide.noise_aware import Energy, NoiseAware
from chainrule.methods.base import Result, Task, generate


def noise_aware(task: Task, *, energy: Energy, scale: float, steps: int = 50, on_step: OnStep | None = None) -> Result:
    """The images of the task's seeds, each step pushed by `energy` of the noisy latent."""
    return generate(task, NoiseAware(task.denoiser, energy, scale), task.x_T, steps, on_step=on_step)
