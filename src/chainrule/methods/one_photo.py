"""What the methods share that learn one photo, to edit it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from chainrule.diffusion.denoiser import Conditioned, Conditioning, Denoiser
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.errors import UserError
from chainrule.methods.base import Task
from chainrule.models.base import Model


def require_one_photo(task: Task, kind: str) -> None:
    """Raise UserError if the seeds of a task have photos that differ.

    Args:
        task: Whose photos.
        kind: The method that learns them.
    """
    images = task.require_photo().images
    if not (images == images[:1]).all():
        raise UserError(f"{kind} learns one photo, and these differ", "edit each alone", "photo")


def require_one_edit(task: Task, kind: str) -> None:
    """Raise UserError unless a task has one photo and one prompt, which is words to its model.

    Args:
        task: Whose photos and prompts.
        kind: The method that learns them.
    """
    require_one_photo(task, kind)
    if len(set(task.prompts)) > 1:
        raise UserError(
            f"{kind} learns one photo for one prompt, and these differ",
            "give one prompt",
            "prompt",
        )
    if not any(value.is_floating_point() for value in read_told(task)):
        raise UserError(
            f"{kind} changes what a prompt means, and this model knows classes only",
            "choose a model that draws from text",
            "model",
        )


def encode_photo(task: Task) -> Tensor:
    """The latents (1, C, h, w) of a task's photo, the same for all of its seeds.

    Args:
        task: Whose photo.
    """
    return task.model.encode(task.require_photo().images[:1])


def read_told(task: Task) -> Conditioning:
    """What a task's denoiser was told in words, each (1, ...), without scales and pictures.

    Args:
        task: Whose denoiser; of several prompts the first.
    """
    told = _unguided(task.denoiser).conditioning
    words = len(task.model.text(list(task.prompts[:1])))
    return tuple(value[:1] for value in told[:words])


def retell(model: Model, denoiser: Denoiser, told: Conditioning) -> Denoiser:
    """A denoiser that is told other words; its guidance, negative prompt and picture stay.

    Args:
        model: Whose denoiser.
        denoiser: As `model.denoiser` makes it.
        told: What `model.text` makes of some prompts, or what is like it.
    """
    if isinstance(denoiser, ClassifierFree):
        negative, seen = denoiser.negative[: len(told)], denoiser.negative[len(told) :]
        told, negative = model.text.match(told, negative)
        inner = _retell(denoiser.denoiser, told)
        return replace(denoiser, denoiser=inner, negative=(*negative, *seen))
    return _retell(_unguided(denoiser), told)


def _retell(denoiser: Conditioned, told: Conditioning) -> Conditioned:
    return replace(denoiser, conditioning=(*told, *denoiser.conditioning[len(told) :]))


def _unguided(denoiser: Denoiser) -> Conditioned:
    inner = denoiser.denoiser if isinstance(denoiser, ClassifierFree) else denoiser
    if not isinstance(inner, Conditioned):
        raise UserError(
            f"a {type(inner).__name__} cannot be told other words", "give model.denoiser(prompt)"
        )
    return inner
