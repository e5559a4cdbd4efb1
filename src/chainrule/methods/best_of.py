"""Best of N: draw N times and keep what the loss likes best. The baseline that any optimisation must beat."""

from __future__ import annotations

import torch

from chainrule.gradient.base import OnStep
from chainrule.methods.base import Result, Task, chosen, generate


def best_of(task: Task, count: int, *, steps: int = 50, on_step: OnStep | None = None) -> Result:
    """For each seed, the best of `count` draws of its noise by the task's loss; draw 0 is the plain image's."""
    task.wanted()
    shape = task.model.codec.latent_shape
    results = []
    for draw in range(count):
        x_T = task.noise.normal(draw, shape).to(task.model.device)
        results.append(generate(task, task.denoiser, x_T, steps, on_step=on_step))
    losses = [result.losses for result in results if result.losses is not None]
    best = torch.stack(losses).argmin(dim=0)
    return Result(
        chosen(best, [result.images for result in results]),
        chosen(best, [result.latents for result in results]),
        chosen(best, [result.x_T for result in results]),
        chosen(best, losses),
    )
