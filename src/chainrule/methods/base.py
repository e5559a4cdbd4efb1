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
from chainrule.sample import sample
from chainrule.step.base import Step
from chainrule.step.ddim import DDIM


@dataclass(frozen=True, eq=False)
class Task:
    """One prompt for a batch of seeds, and what the images should be like.

    `denoiser` is the model's with the prompt filled in, `loss` None for methods that need none.
    """

    model: Model
    denoiser: Denoiser
    seeds: tuple[int, ...]
    loss: Loss | None = None

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
    task: Task, denoiser: Denoiser, x_T: Tensor, steps: int, step: Step = _DDIM, on_step: OnStep | None = None
) -> Result:
    """The images of `x_T` under `denoiser`, with the task's loss of each (on the whole image) if it has one."""
    latents = sample(denoiser, x_T, task.model.schedule.times(steps), step=step, on_step=on_step)
    images = task.model.decode(latents)
    return Result(images, latents, x_T, None if task.loss is None else task.loss(images))


def chosen(index: Tensor, candidates: Sequence[Tensor]) -> Tensor:
    """Of several tensors (B, ...), for each b the one numbered `index[b]`."""
    stacked = torch.stack(list(candidates))
    return stacked[index, torch.arange(len(index), device=index.device)]
