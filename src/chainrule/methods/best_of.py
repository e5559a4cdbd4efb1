"""Best of N: draw N times and keep what the loss likes best. The baseline that any optimisation must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from chainrule.gradient.base import OnStep
from chainrule.loss.base import Loss
from chainrule.methods.base import Result, Task, chosen, generate


def best_of(task: Task, count: int, *, steps: int = 50, on_step: OnStep | None = None) -> Result:
    """For each seed, the best of `count` draws of its noise by the task's loss; draw 0 is the plain image's."""
    return best(draws(replace(task, loss=None), count, steps=steps, on_step=on_step), task.wanted())


def draws(task: Task, count: int, *, steps: int = 50, on_step: OnStep | None = None) -> list[Result]:
    """`count` batches of plain images, each from its own draw of the seeds' noise."""
    shape = task.model.codec.latent_shape
    noise = [task.noise.normal(draw, shape).to(task.model.device) for draw in range(count)]
    return [generate(task, task.denoiser, x_T, steps, on_step=on_step) for x_T in noise]


@torch.no_grad()
def best(results: Sequence[Result], loss: Loss) -> Result:
    """For each image of a batch, the one of several results whose `loss` is lowest."""
    losses = torch.stack([loss(result.images) for result in results])
    index = losses.argmin(dim=0)
    return Result(
        chosen(index, [result.images for result in results]),
        chosen(index, [result.latents for result in results]),
        chosen(index, [result.x_T for result in results]),
        chosen(index, list(losses)),
    )
