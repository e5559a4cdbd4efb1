"""What every method is given and gives back."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from chainrule.diffusion.constraints import Constraint, Inpaint, Noised, constrain
from chainrule.diffusion.constraints.inpaint import KNOWN, fill_in, mask_for_latents
from chainrule.diffusion.denoiser import Denoiser
from chainrule.errors import UserError
from chainrule.diffusion.gradient.base import OnStep
from chainrule.losses.base import Loss
from chainrule.memory import out_of_memory
from chainrule.models.base import Model
from chainrule.noise import Noise
from chainrule.plan import Plan, arrange
from chainrule.diffusion.sampling import invert, sample_state
from chainrule.diffusion.schedule import Grid, tail
from chainrule.diffusion.solvers.base import State, Solver
from chainrule.diffusion.solvers.ddim import DDIM

T = TypeVar("T")
PLAIN = Plan()


@dataclass(frozen=True, eq=False)
class Photo:
    """Pictures to be edited: `images` (B, 3, H, W) in [0, 1] of sides that the model can make (`Codec.multiple`).

    `denoiser` is what they are invert_photos under: told what they show, or nothing (no prompt, no guidance). `size` is the
    (height, width) of the original, whose proportions a result should have. `mask` (B, 1, H, W) in [0, 1] is 1 where
    they may change (None: everywhere), and `exact` puts the photo's own pixels back elsewhere at the end. `x_T`
    (B, C, h, w) is the noise of pictures that the model itself has made by DDIM under `denoiser`.
    """

    images: Tensor
    denoiser: Denoiser
    size: tuple[int, int]
    mask: Tensor | None = None
    exact: bool = False
    x_T: Tensor | None = None

    def __post_init__(self) -> None:
        wanted = (len(self.images), 1, *self.images.shape[2:])
        if self.mask is not None and self.mask.shape != wanted:
            raise UserError(f"the mask is {tuple(self.mask.shape)} and must be {wanted}, like the photos it is for")

    def select(self, rows: Sequence[int]) -> Photo:
        """Some of the photos."""
        mask, x_T = (None if value is None else value[list(rows)] for value in (self.mask, self.x_T))
        return replace(self, images=self.images[list(rows)], denoiser=self.denoiser.select(rows), mask=mask, x_T=x_T)

    def kept(self, images: Tensor) -> Tensor:
        """`images` (B, 3, H, W), with the photos' own pixels outside the mask if that was asked for."""
        if self.mask is None or not self.exact:
            return images
        return self.mask * images + (1 - self.mask) * self.images


@dataclass(frozen=True, eq=False)
class Task:
    """One prompt for a batch of seeds, and what the images should be like.

    `denoiser` is the model's with the prompt filled in, `loss` None for methods that need none, `photo` what the images
    are made of where they are not made of noise (one for each seed), `plan` how all that fits memory (`under`).
    `constraints` hold between the steps of any method's way from noise to image (`masked` adds that of a mask).
    """

    model: Model
    denoiser: Denoiser
    seeds: tuple[int, ...]
    loss: Loss | None = None
    photo: Photo | None = None
    plan: Plan = PLAIN
    constraints: tuple[Constraint, ...] = ()

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
        """The starting noise (B, C, h, w), of the photos' proportions if there are any."""
        codec = self.model.codec
        if self.photo is None:
            return self.model.noise(self.seeds)
        height, width = (side // codec.factor for side in self.photo.images.shape[-2:])
        return self.noise.normal(0, (codec.latent_shape[0], height, width)).to(self.model.device)

    def select(self, rows: Sequence[int]) -> Task:
        """The same for some of the images."""
        seeds, photo = tuple(self.seeds[row] for row in rows), self.photo and self.photo.select(rows)
        constraints = tuple(constraint.select(rows) for constraint in self.constraints)
        return replace(self, denoiser=self.denoiser.select(rows), seeds=seeds, photo=photo, constraints=constraints)

    def parts(self, size: int | None = None) -> list[tuple[list[int], Task]]:
        """The images in groups of `size` (None: all in one): the numbers of each group's images, and its task."""
        rows = list(range(len(self.seeds)))
        if size is None or size >= len(rows):
            return [(rows, self)]
        return [(group, self.select(group)) for start in rows[::size] if (group := rows[start : start + size])]

    def decode(self, latents: Tensor) -> Tensor:
        """The images of `latents`; the photos' own pixels where they are to be kept exactly."""
        images = self.model.decode(latents)
        return images if self.photo is None else self.photo.kept(images)

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
    was the sum of (`Loss.names`). `attention` (B, K, h', w') is how much each of K tokens is looked at, and where, if a
    method has seen that.
    """

    images: Tensor
    latents: Tensor
    x_T: Tensor
    losses: Tensor | None = None
    history: Tensor | None = None
    terms: Tensor | None = None
    attention: Tensor | None = None


class Judged(NamedTuple):
    """What a loss says of P batches of finished latents: its n `terms` (n, B), the mean over the batches; `gradients`
    of their sum, of each batch (B, C, h, w); and the `images` (B, 3, H, W) of the first."""

    terms: Tensor
    gradients: tuple[Tensor, ...]
    images: Tensor


def loss_and_gradient(task: Task, loss: Callable[[Task], Loss], latents: Sequence[Tensor]) -> Judged:
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
        made = part.decode(leaf)
        values = weight * loss(part).terms(made)
        gradients.append(torch.autograd.grad(values.sum(), leaf)[0] if leaf.requires_grad else 0 * leaf)
        terms.append(values.detach())
        images.append(made.detach())
    return torch.cat(terms, dim=1), torch.cat(gradients), torch.cat(images)


def decoded(task: Task, latents: Tensor) -> Tensor:
    """The images of `latents` (B, C, h, w), as many at once as the task's plan allows."""
    return torch.cat([part.decode(latents[rows]) for rows, part in task.parts(task.plan.sight)])


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
    solver: Solver = _DDIM,
    strength: float = 1.0,
    grid: Grid | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """The images of `start` under `denoiser`, with the task's loss of each (on the whole image) if it has one.

    `start` is noise (B, C, h, w), or the solver's latents at the beginning of the last `strength` of the chain, whose
    times are those of `grid` (None: the checkpoint's own). The task's constraints hold.
    """
    begun = solver.latents(solver.init(start)) if isinstance(start, Tensor) else start
    schedule = task.model.schedule
    times = tail(grid(schedule, steps) if grid else schedule.times(steps), strength)
    latents = []
    for rows, part, told in _parts(task, denoiser):
        solver = constrain(solver.select(rows), part.constraints)
        state = solver.begin(tuple(x[rows] for x in begun))
        latents.append(solver.final(sample_state(told, state, times, solver=solver, on_step=on_step)))
    images = decoded(task, torch.cat(latents))
    return Result(images, torch.cat(latents), begun[0], None if task.loss is None else scored(task, images))


@torch.no_grad()
def invert_photos(task: Task, *, steps: int, solver: Solver, strength: float = 1.0, on_step: OnStep | None = None) -> State:
    """The solver's state from which the last `strength` of the chain leads to the task's photos."""
    photo = task.edited()
    times = tail(task.model.schedule.times(steps), strength)
    states = [
        invert(part, task.model.encode(photo.images[rows]), times, solver=solver, on_step=on_step)
        for rows, _, part in _parts(task, photo.denoiser)
    ]
    return tuple(torch.cat(latents) for latents in zip(*states, strict=True))


@torch.no_grad()
def noised(task: Task, z: Tensor, steps: int, strength: float, draw: int = 0) -> Tensor:
    """Latents `z` (B, C, h, w) with noise, where the last `strength` of a chain of `steps` begins; at 1, noise alone.

    Draw 0 of the noise is that of the seeds' plain images.
    """
    eps = task.noise.normal(draw, z.shape[1:]).to(z)
    if strength == 1.0:
        return eps
    schedule = task.model.schedule
    t = tail(schedule.times(steps), strength)[0].item()
    return schedule.alpha(t) * z + schedule.sigma(t) * eps


@torch.no_grad()
def encoded(task: Task, images: Tensor | None = None) -> Tensor:
    """The latents of the task's photos, or of `images` in their place, as many at once as the task's plan allows."""
    photos = task.edited().images if images is None else images
    return torch.cat([task.model.encode(photos[rows]) for rows, _ in task.parts(task.plan.together)])


@torch.no_grad()
def untouched(task: Task) -> Result:
    """The task's photos as the autoencoder leaves them: what an edit of strength 0 is."""
    z = encoded(task)
    images = decoded(task, z)
    return Result(images, z, task.x_T, None if task.loss is None else scored(task, images))


def by_parts(task: Task, work: Callable[[Task], Result]) -> Result:
    """`work` on as many images as the task's plan computes together, one group after another."""
    parts = [work(part) for _, part in task.parts(task.plan.together)]
    images, latents, x_T = (
        torch.cat(each) for each in zip(*((part.images, part.latents, part.x_T) for part in parts), strict=True)
    )
    seen = ([part.losses for part in parts], [part.attention for part in parts])
    losses, attention = (None if values[0] is None else torch.cat(values) for values in seen)  # type: ignore[arg-type]
    return Result(images, latents, x_T, losses, attention=attention)


def _parts(task: Task, denoiser: Denoiser) -> list[tuple[list[int], Task, Denoiser]]:
    """The numbers of the images that the task's plan computes together, their task, and `denoiser` for them."""
    parts = task.parts(task.plan.together)
    return [(rows, part, denoiser if len(parts) == 1 else denoiser.select(rows)) for rows, part in parts]


def masked(task: Task) -> Task:
    """`task` whose every chain keeps the photos outside their mask; as it is if that is so already.

    Raises UserError if they have no mask.
    """
    photo = task.edited()
    if any(isinstance(constraint, Inpaint) for constraint in task.constraints):
        return task
    if photo.mask is None:
        raise UserError("this method fills a part of the picture: say which with a mask (--mask FILE, white = change)")
    z = encoded(task, fill_in(photo.images, photo.mask))
    known = Noised(task.model.schedule, z, task.noise, KNOWN)
    return replace(task, constraints=(*task.constraints, Inpaint(mask_for_latents(photo.mask, z), known)))


def chosen(index: Tensor, candidates: Sequence[Tensor]) -> Tensor:
    """Of several tensors (B, ...), for each b the one numbered `index[b]`."""
    stacked = torch.stack(list(candidates))
    return stacked[index, torch.arange(len(index), device=index.device)]
