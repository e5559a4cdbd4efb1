"""From what a run is asked for to its task: the model, the losses, the photo and its mask."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.errors import UserError
from chainrule.images import (
    colour_mask,
    load_picture,
    on_white,
    read_mask,
    read_picture,
    resize,
    shrink_mask,
)
from chainrule.losses.base import sum_losses
from chainrule.memory import is_out_of_memory, told_out_of_memory
from chainrule.methods.base import Method, Needs, Photo, Task
from chainrule.methods.chains import constrain_to_mask, warn_if_unlike
from chainrule.methods.diffedit import find_difference
from chainrule.methods.noise_aware import EnergyGuidance
from chainrule.methods.plain import Plain
from chainrule.models import Model, load
from chainrule.runs.spec import DTYPES, Checkpoint, Inputs, RunSpec

COARSE = 4.0
"""How many pixels of a photo one of the model's may stand for, along a side, without a word."""


def load_model(checkpoint: Checkpoint) -> Model:
    """The model. Raises UserError if there is none, or if it cannot be loaded so."""
    return load(
        checkpoint.model,
        dtype=DTYPES[checkpoint.dtype],
        device=checkpoint.device,
        variant=checkpoint.variant,
        size=checkpoint.size,
        embeddings=checkpoint.embedding,
        loras=checkpoint.lora,
        config=checkpoint.config,
    )


@told_out_of_memory()
def load_task(spec: RunSpec, model: Model | None = None) -> Task:
    """The task that all of a run's methods share. Nothing is written.

    Args:
        spec: What is asked for.
        model: The model, if it is loaded already.

    Raises:
        UserError: For whatever is missing, or does not fit together.
    """
    model = load_model(spec.checkpoint) if model is None else model
    _check(spec, model)
    if spec.checkpoint.embedding:
        _warn_unused(spec, model.words)
    inputs = spec.inputs
    losses = [each.build(model.device, model.world) for each in spec.losses]
    task = Task(
        model,
        _tell(model, inputs, inputs.prompt),
        inputs.seed,
        sum_losses(losses) if losses else None,
        prompts=inputs.prompt,
        pictures=tuple(load_picture(path).to(model.device) for path in inputs.pictures),
    )
    if not inputs.edits:
        return task
    with torch.no_grad():
        task = _show(inputs, replace(task, photo=_load_photo(spec, task)))
        if not inputs.has_mask:
            return task
        masked = _show(inputs, replace(task, photo=_mask_photo(inputs, task)))
        return constrain_to_mask(masked)


def _show(inputs: Inputs, task: Task) -> Task:
    """The task, its network told of the photo and the mask if it is one that fills in."""
    if task.model.picture is None:
        return task
    photo = task.require_photo()
    shown = _tell(task.model, inputs, (inputs.source,), photo)
    told = _tell(task.model, inputs, inputs.prompt, photo)
    return replace(task, denoiser=told, photo=replace(photo, denoiser=shown))


def _warn_unused(spec: RunSpec, words: Sequence[str]) -> None:
    """Warn of taught words that nothing in a run says."""
    said = spec.model_dump_json(exclude={"checkpoint"}).lower()
    unused = [word for word in words if word.lower() not in said]
    if unused:
        warnings.warn(
            f"no prompt has the taught {', '.join(unused)}: a word acts where it is said",
            stacklevel=2,
        )


def prepare_methods(spec: RunSpec, task: Task) -> dict[str, tuple[Method, Any]]:
    """Each method by its name in the run, with the task that it takes.

    Args:
        spec: The run.
        task: What its methods share.

    Raises:
        UserError: For the first method that lacks something.
    """
    found: dict[str, tuple[Method, Any]] = {}
    for label, method in spec.labelled():
        steps = getattr(method, "steps", None)
        if steps is not None:
            task.model.schedule.times(steps)  # an impossible number is said now
        with torch.no_grad():
            found[label] = method, method.prepare(task)
    return found


def _check(spec: RunSpec, model: Model) -> None:
    """Raise UserError for what no setting alone is to blame for."""
    inputs = spec.inputs
    if inputs.exact and not inputs.has_mask:
        raise UserError("what is outside of a mask is kept exactly", "name a mask", "mask")
    if inputs.native and inputs.photo is None:
        raise UserError("without a photo all images have the model's own size", "omit it", "native")
    if inputs.has_mask and not inputs.edits:
        raise UserError("a mask is a part of a picture", "name the picture to edit", "photo")
    _check_heeded(spec)
    for loss in () if inputs.edits else spec.losses:
        loss.require_photo()
    example = model.text.example
    learns = any(Needs.PICTURES in type(method).needs for method in spec.methods)
    told = all(prompt.strip() for prompt in inputs.prompt)
    if not (inputs.edits or learns or told) and example is not None:
        raise UserError("the prompt is empty", f'say what to draw, for example "{example}"')


def _check_heeded(spec: RunSpec) -> None:
    """Raise UserError for what none of the run's methods would heed."""
    inputs, methods = spec.inputs, spec.methods
    several = len(inputs.prompt) not in (1, len(inputs.seed))
    for method in methods:
        if several and Needs.PROMPTS not in type(method).needs:
            raise UserError(
                f"there are {len(inputs.prompt)} prompts for {len(inputs.seed)} seeds",
                f"give {method.kind} one prompt, or one for each seed",
                "prompt",
            )
    follows = any(
        Needs.LOSS in type(method).needs or isinstance(method, EnergyGuidance) for method in methods
    )
    if spec.losses and not follows:
        warnings.warn(
            "no method here follows the loss: it only scores what they draw", stacklevel=2
        )
    learns = any(Needs.PICTURES in type(method).needs for method in methods)
    if inputs.pictures and not learns:
        raise UserError("no method here learns from pictures", "omit them", "pictures")
    guided = inputs.guidance_scale is not None or inputs.negative_prompt
    if guided and all("guidance_scale" in type(method).model_fields for method in methods):
        raise UserError(
            "these methods have their own guidance", "set it there, and omit the run's", "method"
        )


def _tell(
    model: Model, inputs: Inputs, prompts: tuple[str, ...], photo: Photo | None = None
) -> Denoiser:
    """The model told some prompts; of a photo that nothing is said about, unconditionally."""
    scale = inputs.guidance_scale
    if inputs.edits and not any(prompt.strip() for prompt in prompts):
        scale = 1.0
    elif inputs.edits and scale is None and model.guidance.negative:
        scale = model.photo_scale
    told = prompts[0] if len(prompts) == 1 or len(prompts) != len(inputs.seed) else list(prompts)
    seen = photo if model.picture is not None else None
    return model.denoiser(
        told,
        negative_prompt=inputs.negative_prompt,
        guidance_scale=scale,
        photo=None if seen is None else seen.images,
        mask=None if seen is None else seen.mask,
    )


def _load_photo(spec: RunSpec, task: Task) -> Photo:
    """The photo that is named, or the model's own pictures of what is said to be shown."""
    inputs, model = spec.inputs, task.model
    shown = _tell(model, inputs, (inputs.source,))
    said = (inputs.source,)
    if inputs.photo is None:
        steps = max(getattr(method, "steps", 50) for method in spec.methods)
        drawn = Plain(steps=steps)(replace(task, denoiser=shown, loss=None))
        size = (drawn.images.shape[-2], drawn.images.shape[-1])
        return Photo(drawn.images, shown, size, x_T=drawn.x_T, prompts=said)
    full = read_picture(inputs.photo)
    image = model.codec.fit(on_white(full)).to(model.device)
    images = image.expand(len(inputs.seed), *image.shape)
    return Photo(images, shown, (full.shape[-2], full.shape[-1]), prompts=said, full=full)


def warn_of_photo(spec: RunSpec, task: Task) -> None:
    """Say, before the work begins, what of a photo the model will not see or cannot draw.

    Args:
        spec: The run.
        task: What its methods share.
    """
    inputs, model, photo = spec.inputs, task.model, task.photo
    if photo is None or photo.full is None:
        return
    if photo.full.shape[-3] == 4:
        warnings.warn(
            f"{inputs.photo} is transparent in parts: the model sees it on white, and its edits "
            + ("stay so" if inputs.native else "get its transparency back"),
            stacklevel=2,
        )
    (height, width), (h, w) = photo.size, photo.images.shape[-2:]
    coarse = math.sqrt(height * width / (h * w))
    if coarse > COARSE:
        warnings.warn(
            f"the model sees {inputs.photo} at {w}x{h} pixels instead of {width}x{height}, so that "
            f"what it changes is {coarse:.0f} times as coarse: crop it, or choose a larger size",
            stacklevel=2,
        )
    try:
        again = model.decode(model.encode(photo.images[:1]))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return  # the run's own plan may be tighter
        raise
    warn_if_unlike(
        again,
        photo.images[:1],
        f"the model can draw {inputs.photo}",
        "what comes back will look unlike it: crop it, or choose another model",
    )


def _mask_photo(inputs: Inputs, task: Task) -> Photo:
    """The photo with its mask. Raises UserError if that leaves nothing free."""
    photo = task.require_photo()
    whole = None if inputs.mask is None else read_mask(inputs.mask, photo.size)
    found = _find_mask(inputs, task, whole)
    if not found.flatten(1).any(dim=1).all():
        if whole is not None and (whole > 0.5).any():
            (height, width), (h, w) = photo.size, photo.images.shape[-2:]
            raise UserError(
                f"the mask is too thin: nothing of it is left at the {w}x{h} pixels that the "
                f"model sees of {width}x{height}",
                "mark more",
                "mask",
            )
        raise UserError(
            "the mask is empty, so that nothing of the picture would change", "name another", "mask"
        )
    mask = found.expand(len(photo.images), -1, -1, -1)
    return replace(photo, mask=mask, exact=inputs.exact, full_mask=whole)


def _find_mask(inputs: Inputs, task: Task, whole: Tensor | None) -> Tensor:
    """Where the photo may change, (B or 1, 1, H, W) of 0 and 1; `whole` is a file's mask."""
    photo = task.require_photo()
    size = (photo.images.shape[-2], photo.images.shape[-1])
    if inputs.mask_text is not None:
        asked = replace(task, denoiser=_tell(task.model, inputs, (inputs.mask_text,), photo))
        return resize(find_difference(asked, task.model.encode(photo.images)), size)
    if inputs.mask_colour is not None:
        return colour_mask(photo.images, inputs.mask_colour)
    if whole is None:
        raise UserError("there is no mask", "name one", "mask")
    return shrink_mask(whole, size).to(photo.images)
