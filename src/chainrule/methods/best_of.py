"""Best of N: no paper, the baseline that any optimisation must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.losses.base import Loss
from chainrule.methods.base import (
    SEARCH,
    Drawn,
    Method,
    Needs,
    Result,
    Stage,
    State,
    Steps,
    Task,
)
from chainrule.methods.chains import generate
from chainrule.methods.chunking import finish, tell_part


@dataclass(frozen=True, eq=False)
class Best(Drawn):
    """The best of some draws.

    Args:
        draws: (), how many they were.
    """

    draws: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.long))

    @property
    def iteration(self) -> int:
        return int(self.draws)

    @property
    def numbers(self) -> dict[str, float]:
        return {} if self.losses is None else {"best": self.losses.mean().item()}


class BestOf(Method):
    """Draws several times, and keeps what the loss likes best.

    No paper: the baseline that any optimisation must beat.

    Limits: as many times the cost of an image, and nothing that the model does not draw by itself
    once in so many draws.
    """

    kind: Literal["best-of"] = "best-of"
    needs = Needs.NOISE | Needs.LOSS
    state: ClassVar[type[State]] = Best
    differentiates = False
    count: int = Field(
        default=8, ge=1, description="How many draws of the noise; the first is the plain image's."
    )
    steps: Steps = 50

    def count_iterations(self, task: Any) -> int:
        return self.count

    def stage(self, task: Any, iteration: int) -> Stage:
        return Stage(iteration, self.count, SEARCH)

    def run(
        self, task: Task, state: Best | None = None, on_step: OnStep | None = None
    ) -> Iterator[Best]:
        """The best so far after each draw."""
        return search(task, self.count, state, steps=self.steps, on_step=on_step)

    def result(self, task: Task, state: Best) -> Result:
        return finish(task, state)

    def __call__(self, task: Any, on_step: OnStep | None = None) -> Result:
        result: Result = super().__call__(task, on_step)
        return result


def draw_best(task: Task, count: int, *, steps: int, on_step: OnStep | None = None) -> Result:
    """For each seed, the best of `count` draws of its noise by the task's loss.

    Args:
        task: Whose seeds.
        count: How many draws, 1 or more.
        steps: Sampling steps.
        on_step: Told after each step.
    """
    *_, best = search(task, count, steps=steps, on_step=on_step)
    return finish(task, best)


def search(
    task: Task,
    count: int,
    best: Best | None = None,
    *,
    steps: int,
    on_step: OnStep | None = None,
) -> Iterator[Best]:
    """For each seed the best so far, after each of `count` draws of its noise.

    Args:
        task: Whose seeds and loss.
        count: How many draws there are in all.
        best: What was found so far, where the search goes on.
        steps: Sampling steps.
        on_step: Told after each step, of those of all draws.
    """
    _ = task.require_loss()
    done = 0 if best is None else best.iteration
    for found in draws(task, count, steps=steps, first=done, on_step=on_step):
        done += 1
        new = Best(found.latents, found.x_T, losses=found.losses, draws=torch.tensor(done))
        best = new if best is None else keep_better(best, new)
        yield best


def keep_better(best: Best, new: Best) -> Best:
    """Of each image, the one whose loss is lower; the draws are the new one's."""
    choose = _choose_lower(best.losses, new.losses)
    latents, x_T = choose(best.latents, new.latents), choose(best.x_T, new.x_T)
    return Best(latents, x_T, losses=choose(best.losses, new.losses), draws=new.draws)


def draws(
    task: Task, count: int, *, steps: int, first: int = 0, on_step: OnStep | None = None
) -> Iterator[Result]:
    """`count` batches of plain images, each from its own draw of the seeds' noise.

    Args:
        task: Whose seeds.
        count: How many draws, 1 or more.
        steps: Sampling steps.
        first: How many of them are left out, which were drawn before.
        on_step: Told after each step.
    """
    shape = task.model.codec.latent_shape
    for draw in range(first, count):
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
    choose = _choose_lower(one.losses, other.losses)
    return Result(
        choose(one.images, other.images),
        choose(one.latents, other.latents),
        choose(one.x_T, other.x_T),
        choose(one.losses, other.losses),
    )


def _choose_lower(*losses: Tensor | None) -> Callable[..., Tensor]:
    """What takes each image from the candidate whose loss (B,) is lowest."""
    known = torch.stack([each for each in losses if each is not None])
    index = known.where(~known.isnan(), torch.inf).argmin(dim=0)  # torch's least number is nan
    rows = torch.arange(len(index), device=index.device)

    def choose(*candidates: Tensor | None) -> Tensor:
        return torch.stack([each for each in candidates if each is not None])[index, rows]

    return choose
