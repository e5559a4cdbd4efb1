"""What every method is given and gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.denoiser import Denoiser
from chainrule.errors import UserError
from chainrule.gradient.base import OnStep
from chainrule.loss.base import Loss
from chainrule.models.base import Model
from chainrule.noise import Noise
from chainrule.sample import invert, sample_state
from chainrule.schedule import Grid, tail
from chainrule.step.base import State, Step
from chainrule.step.ddim import DDIM


@dataclass(frozen=True, eq=False)
class Photo:
    """Pictures to be edited: `images` (B, 3, H, W) in [0, 1] of sides that the model can make (`Codec.multiple`).

    `denoiser` is what they are inverted under: told what they show, or nothing (no prompt, no guidance). `size` is the
    (height, width) of the original, whose proportions a result should have.
    """

    images: Tensor
    denoiser: Denoiser
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Task:
    """One prompt for a batch of seeds, and what the images should be like.

    `denoiser` is the model's with the prompt filled in, `loss` None for methods that need none, `photo` what the images
    are made of where they are not made of noise (one for each seed).
    """

    model: Model
    denoiser: Denoiser
    seeds: tuple[int, ...]
    loss: Loss | None = None
    photo: Photo | None = None

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
    latents = step.final(sample_state(denoiser, state, times, step=step, on_step=on_step))
    images = task.model.decode(latents)
    return Result(images, latents, state[0], None if task.loss is None else task.loss(images))


@torch.no_grad()
def inverted(task: Task, *, steps: int, step: Step, strength: float = 1.0, on_step: OnStep | None = None) -> State:
    """The solver's state from which the last `strength` of the chain leads to the task's photos."""
    photo = task.edited()
    times = tail(task.model.schedule.times(steps), strength)
    return invert(photo.denoiser, task.model.encode(photo.images), times, step=step, on_step=on_step)


def chosen(index: Tensor, candidates: Sequence[Tensor]) -> Tensor:
    """Of several tensors (B, ...), for each b the one numbered `index[b]`."""
    stacked = torch.stack(list(candidates))
    return stacked[index, torch.arange(len(index), device=index.device)]
