"""What the methods share that learn a thing from some pictures of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.diffusion.matching import training_times
from chainrule.errors import UserError
from chainrule.images import crop, shorten
from chainrule.methods.base import Sheet, Task
from chainrule.methods.chains import generate
from chainrule.models.base import Model, Text
from chainrule.noise import Noise

NAME = "{}"
"""What stands for the thing in a prompt."""
AT_ONCE = 16
"""How many images are drawn together, unless the plan says otherwise."""
CHANCE = Noise((0,))
"""The random numbers of trainings: they do not depend on the seeds on which these are shown."""


@dataclass(frozen=True)
class Batch:
    """What a network is asked in one iteration.

    Args:
        rows: Which of the pictures, one for each of the N.
        eps: The noise on each (N, C, h, w).
        times: The time of each (N,).
    """

    rows: list[int]
    eps: Tensor
    times: Tensor

    def split(self, size: int | None) -> list[Batch]:
        """The same in parts of `size` (None: all in one), as a plan has it."""
        size = size or len(self.rows)
        starts = range(0, len(self.rows), size)
        eps, times = self.eps.split(size), self.times.split(size)
        rows = [self.rows[i : i + size] for i in starts]
        return [Batch(*part) for part in zip(rows, eps, times, strict=True)]


def draw_batch(name: str, k: int, latents: Tensor, size: int, model: Model) -> Batch:
    """The pictures of iteration `k`, each in its turn, with their noise and times.

    Args:
        name: The name of the stream of random numbers.
        k: The iteration.
        latents: Those of all pictures (M, C, h, w).
        size: How many are asked at once, N.
        model: Whose times.
    """
    (chance,) = CHANCE.stream(name).generators(k)
    rows = [(k * size + i) % len(latents) for i in range(size)]
    eps = torch.randn((size, *latents.shape[1:]), generator=chance).to(latents)
    times = training_times(model.schedule, torch.rand(size, generator=chance))
    return Batch(rows, eps, times)


@torch.no_grad()
def encode_pictures(task: Task) -> Tensor:
    """The latents (M, C, h, w) of a task's pictures: of the middle of each, at the model's size.

    Args:
        task: Whose pictures.
    """
    codec = task.model.codec
    _, *sides = codec.latent_shape
    height, width = (side * codec.factor for side in sides)
    each = [crop(picture.to(task.model.device), (height, width)) for picture in task.pictures]
    return torch.cat([task.model.encode(picture[None]) for picture in each])


def name_thing(prompts: Sequence[str], name: str) -> list[str]:
    """Prompts in which the thing has a name.

    >>> name_thing(["{} in a bucket"], "a <dog>")
    ['a <dog> in a bucket']

    Args:
        prompts: With `{}` in its place.
        name: The name.
    """
    return [prompt.replace(NAME, name) for prompt in prompts]


def require_name(prompts: Sequence[str]) -> None:
    """Raise UserError for a prompt without the thing."""
    for prompt in prompts:
        if NAME not in prompt:
            raise UserError(
                f"the prompt {prompt[:60]!r} does not say where the thing is",
                f"write {NAME} in its place, as in '{NAME} in a bucket'",
                "prompt",
            )


def draw_latents(
    task: Task,
    prompt: str,
    seeds: Sequence[int],
    steps: int,
    scale: float | None,
    text: Text | None = None,
) -> Tensor:
    """The latents (B, C, h, w) of a prompt's images from B seeds.

    Args:
        task: Whose model and plan.
        prompt: What is drawn.
        seeds: With which noise.
        steps: The sampling steps.
        scale: The guidance scale; None: the model's own.
        text: What reads the prompt; None: the model's own.
    """
    told = (text or task.model.text)(prompt)
    denoiser = task.model.denoiser(told, guidance_scale=scale)
    asked = Task(task.model, denoiser, tuple(seeds), plan=task.plan, prompts=(prompt,))
    parts = asked.split(task.plan.batch_size or AT_ONCE)
    return torch.cat([generate(part, part.x_T, steps).latents for _, part in parts])


def draw_prompts(
    task: Task, prompts: Sequence[str], steps: int, scale: float | None, text: Text | None = None
) -> Tensor:
    """The images (P, B, 3, H, W) of P prompts from the seeds of a task.

    Args:
        task: Whose model, seeds and plan.
        prompts: What is drawn.
        steps: The sampling steps.
        scale: The guidance scale; None: the model's own.
        text: What reads the prompts; None: the model's own.
    """
    model, at_once = task.model, task.plan.decoded_at_once or AT_ONCE
    drawn = []
    for prompt in prompts:
        latents = draw_latents(task, prompt, task.seeds, steps, scale, text)
        drawn.append(torch.cat([model.decode(part) for part in latents.split(at_once)]))
    return torch.stack(drawn)


def show(
    task: Task, prompts: Sequence[str], images: Tensor, title: str, numbers: dict[str, float]
) -> Sheet:
    """The images of P prompts from a task's seeds, beside its pictures.

    Args:
        task: Whose pictures and seeds.
        prompts: What was drawn.
        images: (P, B, 3, H, W).
        title: What stands above.
        numbers: What was found.
    """
    height, width = images.shape[-2:]
    given = torch.ones_like(images[:, 0])
    for row, picture in enumerate(task.pictures[: len(prompts)]):
        given[row] = crop(picture.to(images), (height, width))
    columns = {"a picture": given}
    columns |= {f"seed {seed}": images[:, i] for i, seed in enumerate(task.seeds)}
    captions = {name: [shorten(prompt) for prompt in prompts] for name in columns}
    captions["a picture"] = [""] * len(prompts)
    return Sheet(columns, [""] * len(prompts), captions, title, numbers)
