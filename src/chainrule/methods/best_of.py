"""Best of N: no paper, the baseline that any optimisation must beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.losses.base import Loss
from chainrule.methods.base import Drawn, Method, Needs, Result, Steps, Task
from chainrule.methods.chains import OneShot, generate
from chainrule.methods.chunking import finish, tell_part


class BestOf(OneShot):
    """Draws several times, and keeps what the loss likes best.

    No paper: the baseline that any optimisation must beat.

    Limits: as many times the cost of an image, and nothing that the model does not draw by itself
    once in so many draws.
    """

    kind: Literal["best-of"] = "best-of"
    needs = Needs.NOISE | Needs.LOSS
    count: int = Field(
        default=8, ge=1, description="How many draws of the noise; the first is the plain image's."
    )
    steps: Steps = 50

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        best = draw_best(task, self.count, steps=self.steps, on_step=on_step)
        return Drawn(best.latents, best.x_T, losses=best.losses)

    def probe(self, steps: int) -> Method:
        return self.model_copy(update={"steps": steps, "count": min(self.count, 2)})


def draw_best(task: Task, count: int, *, steps: int, on_step: OnStep | None = None) -> Result:
    """For each seed, the best of `count` draws of its noise by the task's loss.

    Args:
        task: Whose seeds.
        count: How many draws, 1 or more.
        steps: Sampling steps.
        on_step: Told after each step.
    """
    _ = task.require_loss()
    return reduce(_better, draws(task, count, steps=steps, on_step=on_step))


def draws(task: Task, count: int, *, steps: int, on_step: OnStep | None = None) -> Iterator[Result]:
    """`count` batches of plain images, each from its own draw of the seeds' noise.

    Args:
        task: Whose seeds.
        count: How many draws, 1 or more.
        steps: Sampling steps.
        on_step: Told after each step.
    """
    shape = task.model.codec.latent_shape
    for draw in range(count):
        x_T = task.noise.normal(draw, shape).to(task.model.device)
        told = tell_part(on_step, draw, count)
        yield finish(task, generate(task, x_T, steps, on_step=told))


def choose_best(results: Iterable[Result], loss: Loss) -> Result:
    """For each image of a batch, the one of several results whose `loss` is lowest.

    Args:
        results: Results of the same B images.
        loss: What compares them.
    """
    return reduce(_better, (replace(result, losses=loss(result.images)) for result in results))


def _better(one: Result, other: Result) -> Result:
    """Of each image, the one whose loss is lower."""
    losses = [result.losses for result in (one, other) if result.losses is not None]
    both = torch.stack(losses)
    index = both.where(~both.isnan(), torch.inf).argmin(dim=0)  # torch's least number is nan
    rows = torch.arange(len(index), device=index.device)

    def choose(*candidates: Tensor) -> Tensor:
        return torch.stack(candidates)[index, rows]

    return Result(
        choose(one.images, other.images),
        choose(one.latents, other.latents),
        choose(one.x_T, other.x_T),
        choose(*losses),
    )
