"""Computing a batch in parts, as a task's plan has it, and judging what comes of it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.errors import UserError
from chainrule.losses.base import Loss, check_finite, check_terms, unconnected
from chainrule.memory import Plan, arrange, is_out_of_memory
from chainrule.methods.base import Drawn, Method, Result, State, Task


def decode(task: Task, latents: Tensor) -> Tensor:
    """The images of `latents` (B, C, h, w), as many at once as the task's plan allows.

    Args:
        task: Whose images.
        latents: (B, C, h, w).

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    parts = task.split(task.plan.decoded_at_once)
    return torch.cat([part.decode(latents[rows]) for rows, part in parts])


def evaluate(task: Task, images: Tensor) -> Tensor:
    """The loss of each whole image, as many at once as the task's plan allows.

    Args:
        task: Whose images they are.
        images: (B, 3, H, W) in [0, 1].

    Returns:
        (B,).

    Raises:
        UserError: The loss is not one finite number for each image.
    """
    parts = task.split(task.plan.decoded_at_once)
    losses = []
    for rows, part in parts:
        loss = part.require_loss()
        terms = check_terms(loss, images[rows])
        check_finite(terms, loss.names, [f"seed {seed}" for seed in part.seeds])
        losses.append(terms.sum(dim=0))
    return torch.cat(losses)


def encode_photos(task: Task, images: Tensor | None = None) -> Tensor:
    """The latents of the task's photos, or of `images` (B, 3, H, W) in their place.

    Args:
        task: Whose photos.
        images: (B, 3, H, W) in [0, 1] to encode in their place.

    Returns:
        (B, C, h, w).
    """
    photos = task.require_photo().images if images is None else images
    parts = task.split(task.plan.batch_size)
    return torch.cat([task.model.encode(photos[rows]) for rows, _ in parts])


class Judgement(NamedTuple):
    """What a loss says of P batches of finished latents.

    Args:
        terms: (n, B), each term; the mean over the batches.
        gradients: Of the terms' sum, for each batch (B, C, h, w).
        images: (B, 3, H, W), of the first batch.
    """

    terms: Tensor
    gradients: tuple[Tensor, ...]
    images: Tensor


def loss_and_gradient(
    task: Task, loss: Callable[[Task], Loss], latents: Sequence[Tensor]
) -> Judgement:
    """The chain rule's first factor, dL/dx_0, by itself.

    So the graph of images and loss is gone before the chain's comes. Without grad mode the
    gradients are zero.

    Args:
        task: Whose latents they are.
        loss: Makes the loss of a task's images.
        latents: P batches of them, each (B, C, h, w): EDICT's pair.
    """
    each = [_judge(task, loss, batch, 1 / len(latents)) for batch in latents]
    terms, gradients, images = zip(*each, strict=True)
    return Judgement(torch.stack(terms).sum(dim=0), gradients, images[0])


def _judge(
    task: Task, loss: Callable[[Task], Loss], latents: Tensor, weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted terms of one batch, the gradient of their sum, and the images."""
    terms, gradients, images = [], [], []
    for rows, part in task.split(task.plan.decoded_at_once):
        leaf = latents.detach()[rows].requires_grad_(torch.is_grad_enabled())
        made = part.decode(leaf)
        judge = loss(part)
        values = weight * check_terms(judge, made)
        gradient = 0 * leaf
        if leaf.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
            if gradient is None:  # it wants a gradient for something else alone
                raise unconnected(" + ".join(judge.names))
        gradients.append(gradient)
        terms.append(values.detach())
        images.append(made.detach())
    return torch.cat(terms, dim=1), torch.cat(gradients), torch.cat(images)


def finish(task: Task, drawn: Drawn) -> Result:
    """What was drawn, decoded once and judged once.

    Args:
        task: Whose images.
        drawn: What a method has drawn; losses that it knows are not asked for again.
    """
    images, losses = decode(task, drawn.latents), drawn.losses
    if losses is None and task.loss is not None:
        losses = evaluate(task, images)
    return Result(images, drawn.latents, drawn.x_T, losses, attention=drawn.attention)


def draw_in_parts(task: Task, draw: Callable[[Task], Drawn]) -> Drawn:
    """`draw` on as many images as the task's plan computes together, one group after another.

    Args:
        task: The whole task.
        draw: Draws the images of a part of it.
    """
    parts = [draw(part) for _, part in task.split(task.plan.batch_size)]
    if len(parts) == 1:
        return parts[0]
    joined = {
        name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()
    }
    return Drawn(**joined)


def tell_part(on_step: OnStep | None, part: int, parts: int) -> OnStep | None:
    """Told of the steps of one of several equal chains, it tells of those of all of them.

    Args:
        on_step: Told of all.
        part: Which chain it is, from 0.
        parts: How many there are.
    """
    if on_step is None or parts == 1:
        return on_step
    return lambda done, total: on_step(part * total + done, parts * total)


class Fallback(UserWarning):
    """Memory ran out, and the work was done again under a tighter plan."""


_CURES = "choose a plan for what there is (memory), a smaller size, fewer seeds or bfloat16"


def run_within_memory(
    method: Method, task: Any, state: State | None = None, on_step: OnStep | None = None
) -> Generator[tuple[State, Any], None, None]:
    """The states of a method, each with the task under the plan that it was made with.

    If memory runs out, the iteration is done again under the next tighter plan, once, and that is
    said. The networks are arranged while this lasts, and are afterwards as they were.

    Args:
        method: The method.
        task: What its `prepare` made.
        state: Where to go on; None: at the beginning.
        on_step: Told after each step of a chain.

    Raises:
        UserError: If there is still not enough memory.
    """
    tightened = False
    while True:
        with ExitStack() as arranged:
            if _is_planned(task):
                arranged.enter_context(arrange(task.model, task.loss, task.plan))
            try:
                for reached in method.run(task, state, on_step):
                    state = reached
                    yield reached, task
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not _is_planned(task):
                    raise
                if tightened:
                    raise UserError(f"memory ran out again ({task.plan})", _CURES) from error
        # outside of the handler, which would keep alive what there was
        task, tightened = _tighten(task), True


def _is_planned(task: Any) -> bool:
    """Whether a task has a plan that could be tighter."""
    return hasattr(task, "plan")


def _tighten(task: Any) -> Any:
    """The task under the next tighter plan."""
    plan: Plan | None = next(task.plan.tighten(len(task.seeds), task.model.device), None)
    if plan is None:
        raise UserError("there is not enough memory, even for one image at a time", _CURES)
    message = f"memory ran out: once more with a tighter plan ({plan})"
    warnings.warn(message, Fallback, stacklevel=3)
    gc.collect()
    if task.model.device.type == "cuda":
        torch.cuda.empty_cache()
    return task.under(plan)
