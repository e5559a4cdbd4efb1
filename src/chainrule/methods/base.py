"""What every method is given and gives back."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from chainrule.denoiser import Denoiser
from chainrule.errors import UserError
from chainrule.gradient.base import OnStep
from chainrule.loss.base import Loss
from chainrule.memory import out_of_memory
from chainrule.models.base import Model
from chainrule.noise import Noise
from chainrule.plan import Plan, arrange
from chainrule.sample import invert, sample_state
from chainrule.schedule import Grid, tail
from chainrule.step.base import State, Step
from chainrule.step.ddim import DDIM

T = TypeVar("T")
PLAIN = Plan()


@dataclass(frozen=True, eq=False)
class Photo:
    """Pictures to be edited: `images` (B, 3, H, W) in [0, 1] of sides that the model can make (`Codec.multiple`).

    `denoiser` is what they are inverted under: told what they show, or nothing (no prompt, no guidance). `size` is the
    (height, width) of the original, whose proportions a result should have.
    """

    images: Tensor
    denoiser: Denoiser
    size: tuple[int, int]

    def of(self, rows: Sequence[int]) -> Photo:
        """Some of the photos."""
        return Photo(self.images[list(rows)], self.denoiser.of(rows), self.size)


@dataclass(frozen=True, eq=False)
class Task:
    """One prompt for a batch of seeds, and what the images should be like.

    `denoiser` is the model's with the prompt filled in, `loss` None for methods that need none, `photo` what the images
    are made of where they are not made of noise (one for each seed), `plan` how all that fits memory (`under`).
    """

    model: Model
    denoiser: Denoiser
    seeds: tuple[int, ...]
    loss: Loss | None = None
    photo: Photo | None = None
    plan: Plan = PLAIN

    def __post_init__(self) -> None:
        if self.photo is not None and len(self.photo.images) != len(self.seeds):
            raise UserError(
                f"there are {len(self.photo.images)} photos and {len(self.seeds)} seeds: give one seed for each photo"
            )

    @property
    def noise(self) -> Noise:
        """The random numbers of the batch."""
        return Noise(self.seeds)

    @property
    def x_T(self) -> Tensor:  # noqa: N802 - the field's name
        """The starting noise (B, C, h, w)."""
        return self.model.noise(self.seeds)

    def of(self, rows: Sequence[int]) -> Task:
        """The same for some of the images."""
        seeds, photo = tuple(self.seeds[row] for row in rows), self.photo and self.photo.of(rows)
        return replace(self, denoiser=self.denoiser.of(rows), seeds=seeds, photo=photo)

    def parts(self, size: int | None = None) -> list[tuple[list[int], Task]]:
        """The images in groups of `size` (None: all in one): the numbers of each group's images, and its task."""
        rows = list(range(len(self.seeds)))
        if size is None or size >= len(rows):
            return [(rows, self)]
        return [(group, self.of(group)) for start in rows[::size] if (group := rows[start : start + size])]

    def under(self, plan: Plan) -> Task:
        """This task with its networks arranged as `plan` has it."""
        arrange(self.model, self.loss, plan)
        return replace(self, plan=plan)

    def wanted(self) -> Loss:
        """The loss; raises UserError if the task has none."""
        if self.loss is None:
            raise UserError("this method needs a loss: name one, for example --loss classifier=heart")
        return self.loss

    def edited(self) -> Photo:
        """The photos; raises UserError if the task has none."""
        if self.photo is None:
            raise UserError("this method edits a picture: name one, as in `chainrule edit photo.jpg`")
        return self.photo


@dataclass(frozen=True, eq=False)
class Result:
    """`images` (B, 3, H, W) in [0, 1], their `latents` and starting noise `x_T` (B, C, h, w), and `losses` (B,).

    `history` (k, B) holds the loss of each image at each iteration of a method that iterates, `terms` (k, n, B) what it
    was the sum of (`Loss.names`).
    """

    images: Tensor
    latents: Tensor
    x_T: Tensor
    losses: Tensor | None = None
    history: Tensor | None = None
    terms: Tensor | None = None


class Judged(NamedTuple):
    """What a loss says of P batches of finished latents: its n `terms` (n, B), the mean over the batches; `gradients`
    of their sum, of each batch (B, C, h, w); and the `images` (B, 3, H, W) of the first."""

    terms: Tensor
    gradients: tuple[Tensor, ...]
    images: Tensor


def judged(task: Task, loss: Callable[[Task], Loss], latents: Sequence[Tensor]) -> Judged:
    """The chain rule's first factor, dL/dx_0, by itself: the graph of images and loss is gone before the chain's comes.

    `loss` makes the loss of a task's images, `latents` are P batches of them (EDICT's pair). As many images are seen at
    once as the task's plan allows. In `torch.no_grad()` the gradients are zero.
    """
    each = [_judged(task, loss, batch, 1 / len(latents)) for batch in latents]
    terms, gradients, images = zip(*each, strict=True)
    return Judged(torch.stack(terms).sum(dim=0), gradients, images[0])


def _judged(task: Task, loss: Callable[[Task], Loss], latents: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted terms of one batch, the gradient of their sum, and the images."""
    terms, gradients, images = [], [], []
    for rows, part in task.parts(task.plan.sight):
        leaf = latents.detach()[rows].requires_grad_(torch.is_grad_enabled())
        made = part.model.decode(leaf)
        values = weight * loss(part).terms(made)
        gradients.append(torch.autograd.grad(values.sum(), leaf)[0] if leaf.requires_grad else 0 * leaf)
        terms.append(values.detach())
        images.append(made.detach())
    return torch.cat(terms, dim=1), torch.cat(gradients), torch.cat(images)


def decoded(task: Task, latents: Tensor) -> Tensor:
    """The images of `latents` (B, C, h, w), as many at once as the task's plan allows."""
    return torch.cat([part.model.decode(latents[rows]) for rows, part in task.parts(task.plan.sight)])


def scored(task: Task, images: Tensor, loss: Callable[[Task], Loss] = Task.wanted) -> Tensor:
    """The loss of each of `images`, (B,), as many at once as the task's plan allows; `loss` makes it of a task."""
    return torch.cat([loss(part)(images[rows]) for rows, part in task.parts(task.plan.sight)])


class Fallback(UserWarning):
    """Memory ran out, and the work was done again under a tighter plan."""


def within_memory(task: Task, work: Callable[[Task], T]) -> tuple[T, Task]:
    """What `work` makes of the task; if memory runs out, of the task under the next tighter plan, once, and said so.

    Also returns the task that it was made of, for what comes after. Raises UserError if there is still not enough.
    """
    try:
        return work(task), task
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    # outside of the handler, which would keep alive what there was
    tighter = next(task.plan.tighter(len(task.seeds), task.model.device), None)
    if tighter is None:
        raise UserError(f"there is not enough memory, even for one image at a time: {_CURES}")
    warnings.warn(f"memory ran out: once more with a tighter plan ({tighter})", Fallback, stacklevel=2)
    gc.collect()
    if task.model.device.type == "cuda":
        torch.cuda.empty_cache()
    lower = task.under(tighter)
    try:
        return work(lower), lower
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"memory ran out again ({tighter}): {_CURES}") from error


_CURES = "choose a plan for what there is (--memory 8GB), a smaller --size, fewer --seed or --dtype bfloat16"


_DDIM = DDIM()


@torch.no_grad()
def generate(
    task: Task,
    denoiser: Denoiser,
    start: Tensor | State,
    steps: int,
    *,
    step: Step = _DDIM,
    strength: float = 1.0,
    grid: Grid | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """The images of `start` under `denoiser`, with the task's loss of each (on the whole image) if it has one.

    `start` is noise (B, C, h, w), or the solver's state at the beginning of the last `strength` of the chain, whose
    times are those of `grid` (None: the checkpoint's own).
    """
    state = step.init(start) if isinstance(start, Tensor) else start
    schedule = task.model.schedule
    times = tail(grid(schedule, steps) if grid else schedule.times(steps), strength)
    latents = torch.cat(
        [
            step.final(sample_state(part, tuple(x[rows] for x in state), times, step=step, on_step=on_step))
            for rows, part in _parts(task, denoiser)
        ]
    )
    images = decoded(task, latents)
    return Result(images, latents, state[0], None if task.loss is None else scored(task, images))


@torch.no_grad()
def inverted(task: Task, *, steps: int, step: Step, strength: float = 1.0, on_step: OnStep | None = None) -> State:
    """The solver's state from which the last `strength` of the chain leads to the task's photos."""
    photo = task.edited()
    times = tail(task.model.schedule.times(steps), strength)
    states = [
        invert(part, task.model.encode(photo.images[rows]), times, step=step, on_step=on_step)
        for rows, part in _parts(task, photo.denoiser)
    ]
    return tuple(torch.cat(latents) for latents in zip(*states, strict=True))


def _parts(task: Task, denoiser: Denoiser) -> list[tuple[list[int], Denoiser]]:
    """The numbers of the images in each group that the task's plan computes together, and `denoiser` for them."""
    parts = task.parts(task.plan.together)
    return [(rows, denoiser if len(parts) == 1 else denoiser.of(rows)) for rows, _ in parts]


def chosen(index: Tensor, candidates: Sequence[Tensor]) -> Tensor:
    """Of several tensors (B, ...), for each b the one numbered `index[b]`."""
    stacked = torch.stack(list(candidates))
    return stacked[index, torch.arange(len(index), device=index.device)]
