"""The walks that most methods are made of: from noise to image, and back from a photo."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.constraints import (
    Inpaint,
    NoisedReference,
    constrain,
    fill_in,
    mask_for_latents,
)
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import invert, sample_state
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.base import State as Latents
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.time_grids import TimeGrid, last_steps
from chainrule.errors import UserError
from chainrule.methods.base import Drawn, Method, Result, Task
from chainrule.methods.chunking import decode, encode_photos, finish, tell_part
from chainrule.metrics import psnr

FAITHFUL = 25.0
"""The PSNR, in decibels, below which a photo that comes back looks unlike itself."""
UNCHANGED, NEAR = 45.0, 0.2
"""The PSNR, in decibels, above which nobody sees an edit; how far its latents may then be from the
photo's, as |z' - z| / |z|: beyond that nothing is decoded to look."""
KNOWN = "repaint/known"
"""The stream of the noise on what a mask keeps."""
_DDIM = DDIM()


class OneShot(Method):
    """A method that draws once: it has one state."""

    @abstractmethod
    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        """Draw the images of a task.

        Args:
            task: What `prepare` made.
            on_step: Told after each step.
        """

    def run(
        self, task: Task, state: Drawn | None = None, on_step: OnStep | None = None
    ) -> Iterator[Drawn]:
        if state is None:
            yield self.draw(task, on_step)

    def result(self, task: Task, state: Drawn) -> Result:
        found = finish(task, state)
        warn_if_unchanged(self, task, found)
        return found

    def __call__(self, task: Any, on_step: OnStep | None = None) -> Result:
        result: Result = super().__call__(task, on_step)
        return result


def generate(
    task: Task,
    start: Tensor | Latents,
    steps: int,
    *,
    denoiser: Denoiser | None = None,
    solver: Solver = _DDIM,
    strength: float = 1.0,
    grid: TimeGrid | None = None,
    on_step: OnStep | None = None,
) -> Drawn:
    """Walk the last `strength` of a chain. The task's constraints hold.

    Args:
        task: Whose chain it is.
        start: Noise (B, C, h, w), or the solver's latents where the walk begins.
        steps: Of the whole chain.
        denoiser: What is asked on the way; None: the task's own.
        solver: What makes the steps.
        strength: The share of the chain that is walked, above 0 and at most 1.
        grid: The times of the chain; None: the checkpoint's own.
        on_step: Told after each step.
    """
    denoiser = task.denoiser if denoiser is None else denoiser
    begun = solver.latents(solver.init(start)) if isinstance(start, Tensor) else start
    schedule = task.model.schedule
    times = last_steps(grid(schedule, steps) if grid else schedule.times(steps), strength)
    finished = []
    parts = _split(task, denoiser)
    for number, (rows, part, told) in enumerate(parts):
        walker = constrain(solver.select(rows), part.constraints)
        state = walker.start(tuple(x[rows] for x in begun))
        tell = tell_part(on_step, number, len(parts))
        last = sample_state(told, state, times, solver=walker, gradient=task.gradient, on_step=tell)
        finished.append(walker.final(last))
    return Drawn(torch.cat(finished), begun[0])


def invert_photos(
    task: Task,
    *,
    steps: int,
    solver: Solver,
    strength: float = 1.0,
    on_step: OnStep | None = None,
) -> Latents:
    """The solver's latents from which the last `strength` of the chain leads to the photos.

    Args:
        task: Whose photos.
        steps: Of the whole chain.
        solver: What inverts; EDICT does so exactly.
        strength: The share of the chain that is walked, above 0 and at most 1.
        on_step: Told after each step.
    """
    photo = task.require_photo()
    times = last_steps(task.model.schedule.times(steps), strength)
    parts = _split(task, photo.denoiser)
    states = [
        invert(
            part,
            task.model.encode(photo.images[rows]),
            times,
            solver=solver,
            on_step=tell_part(on_step, number, len(parts)),
        )
        for number, (rows, _, part) in enumerate(parts)
    ]
    return tuple(torch.cat(latents) for latents in zip(*states, strict=True))


def invert_and_generate(
    task: Task,
    *,
    solver: Solver,
    steps: int,
    strength: float = 1.0,
    denoiser: Denoiser | None = None,
    on_step: OnStep | None = None,
) -> Drawn:
    """The task's photos, inverted under what they show, and drawn again.

    Args:
        task: Whose photos.
        solver: What makes the steps, both ways.
        steps: Of the whole chain.
        strength: The share of the chain that is walked, above 0 and at most 1.
        denoiser: What is asked on the way to the image; None: the task's own.
        on_step: Told after each step.
    """
    state = invert_photos(task, steps=steps, solver=solver, strength=strength, on_step=on_step)
    return generate(
        task,
        state,
        steps,
        denoiser=denoiser,
        solver=solver,
        strength=strength,
        on_step=on_step,
    )


def add_noise(
    task: Task, z: Tensor, steps: int, strength: float, eps: Tensor | None = None
) -> Tensor:
    """Latents with the noise of the place where the last `strength` of a chain begins.

    Args:
        task: Whose schedule and noise.
        z: (B, C, h, w).
        steps: Of the whole chain.
        strength: Above 0; at 1 there is noise alone.
        eps: The noise, as `z`; None: that of the seeds' plain images.
    """
    eps = (task.noise.normal(0, z.shape[1:]) if eps is None else eps).to(z)
    if strength == 1.0:
        return eps
    schedule = task.model.schedule
    t = last_steps(schedule.times(steps), strength)[0].item()
    return schedule.mix(z, eps, t)


def reconstruct_photos(task: Task) -> Drawn:
    """The task's photos as the autoencoder leaves them: an edit of strength 0."""
    return Drawn(encode_photos(task), task.x_T)


def constrain_to_mask(task: Task) -> Task:
    """`task` whose every chain keeps the photos outside their mask; as it is if that is so.

    Raises:
        UserError: If there is no mask.
    """
    photo = task.require_photo()
    if any(isinstance(constraint, Inpaint) for constraint in task.constraints):
        return task
    if photo.mask is None:
        raise UserError(
            "this method fills a part of the picture",
            "say which with a mask, white = change",
            "mask",
        )
    z = encode_photos(task, fill_in(photo.images, photo.mask))
    known = NoisedReference(task.model.schedule, z, task.noise.stream(KNOWN))
    inside = Inpaint(mask_for_latents(photo.mask, z), known)
    return replace(task, constraints=(*task.constraints, inside))


def warn_if_unlike(images: Tensor, photos: Tensor, cause: str, cure: str) -> None:
    """Say it if photos come back from where they were taken looking unlike themselves.

    Args:
        images: What came back, (B, 3, H, W) in [0, 1].
        photos: What they were.
        cause: How the sentence begins: "the model can draw this photo".
        cure: How it ends.
    """
    worst = psnr(images.detach().float(), photos.detach().float()).min().item()
    if worst < FAITHFUL:
        warnings.warn(f"{cause} to {worst:.1f} dB only (below {FAITHFUL:g}): {cure}", stacklevel=3)


def warn_if_unchanged(method: Method, task: Task, result: Result) -> None:
    """Say it if an edit is, within its mask, what the autoencoder makes of the photo alone.

    Args:
        method: What edited.
        task: Whose photos.
        result: The edits.
    """
    photo = task.photo
    if photo is None or not method.to_change_more or getattr(method, "strength", None) == 0:
        return
    z, made = encode_photos(task).detach(), result.latents.detach()
    away = (made - z).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1)
    if not (away < NEAR).any():
        return
    off = (result.images - decode(task, z)).detach().float().square().mean(dim=1, keepdim=True)
    inside = torch.ones_like(off) if photo.mask is None else photo.mask.to(off)
    error = (inside * off).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3)).clamp(min=1)
    found = -10 * error.clamp(min=1e-12).log10()
    same = [
        seed for seed, value in zip(task.seeds, found.tolist(), strict=True) if value > UNCHANGED
    ]
    if same:
        which = "" if len(same) == len(found) else f" (seed {', '.join(map(str, same))})"
        warnings.warn(
            f"{method.kind} hardly changed the photo{which}: the edit is within "
            f"{found.max().item():.0f} dB of it, which nobody sees: {method.to_change_more}",
            stacklevel=2,
        )


def warn_if_chain_is_lossy(task: Task, images: Tensor) -> None:
    """Say it if a chain, there and back, and not the autoencoder, makes photos unlike themselves.

    Args:
        task: Whose photos.
        images: What came back of them, (B, 3, H, W) in [0, 1].
    """
    photos = task.require_photo().images
    lost = psnr(images.detach(), photos)
    if (lost >= FAITHFUL).all():
        return
    alone = psnr(decode(task, encode_photos(task)).detach(), photos)
    if ((lost < FAITHFUL) & (lost < alone - 1)).any():
        warn_if_unlike(
            images,
            photos,
            "the photo comes back from its noise",
            f"the autoencoder alone keeps {alone.min().item():.1f} dB, so take more steps, a mix "
            "nearer to 1 or less strength",
        )


def _split(task: Task, denoiser: Denoiser) -> list[tuple[list[int], Task, Denoiser]]:
    """The images that the plan computes together: their numbers, task, and denoiser."""
    parts = task.split(task.plan.batch_size)
    return [
        (rows, part, denoiser if len(parts) == 1 else denoiser.select(rows)) for rows, part in parts
    ]
