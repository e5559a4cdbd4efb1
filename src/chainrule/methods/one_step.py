"""Classifier guidance on the one-step guess, the baseline of the DOODL paper; see `chainrule.guide.one_step`."""

from __future__ import annotations

from chainrule.gradient.base import OnStep
from chainrule.guide.one_step import OneStep
from chainrule.methods.base import Result, Task, generate


def one_step(task: Task, *, scale: float, steps: int = 50, on_step: OnStep | None = None) -> Result:
    """The images of the task's seeds, each step pushed by the loss of the guessed image."""
    denoiser = OneStep(task.denoiser, task.model.decode, task.wanted(), scale)
    return generate(task, denoiser, task.x_T, steps, on_step=on_step)
