"""Best of N: draw N times and keep what the loss likes best. No paper: the baseline that any optimisation must beat.

Limits: N times the cost of an image, and nothing that the model does not draw by itself once in N.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce

import torch

from chainrule.diffusion.gradient.base import OnStep
from chainrule.losses.base import Loss
from chainrule.methods.base import Result, Task, chosen, generate


def best_of(task: Task, count: int, *, steps: int = 50, on_step: OnStep | None = None) -> Result:
    """For each seed, the best of `count` draws of its noise by the task's loss; draw 0 is the plain image's."""
    _ = task.wanted()
    return reduce(_better, draws(task, count, steps=steps, on_step=on_step))


def draws(task: Task, count: int, *, steps: int = 50, on_step: OnStep | None = None) -> Iterator[Result]:
    """`count` batches of plain images, each from its own draw of the seeds' noise."""
    shape = task.model.codec.latent_shape
    for draw in range(count):
        x_T = task.noise.normal(draw, shape).to(task.model.device)
        yield generate(task, task.denoiser, x_T, steps, on_step=on_step)


@torch.no_grad()
def best(results: Iterable[Result], loss: Loss) -> Result:
    """For each image of a batch, the one of several results whose `loss` is lowest."""
    return reduce(_better, (replace(result, losses=loss(result.images)) for result in results))


def _better(one: Result, other: Result) -> Result:
    """Of each image, the one whose loss is lower."""
    losses = [result.losses for result in (one, other) if result.losses is not None]
    index = torch.stack(losses).argmin(dim=0)
    return Result(
        chosen(index, [one.images, other.images]),
        chosen(index, [one.latents, other.latents]),
        chosen(index, [one.x_T, other.x_T]),
        chosen(index, losses),
    )
