"""No guidance but the model's own: the baseline of everything."""

from __future__ import annotations

from chainrule.gradient.base import OnStep
from chainrule.methods.base import Result, Task, generate


def plain(task: Task, *, steps: int = 50, on_step: OnStep | None = None) -> Result:
    """The images of the task's seeds."""
    return generate(task, task.denoiser, task.x_T, steps, on_step=on_step)
