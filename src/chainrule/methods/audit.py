"""Robustness audit of a classifier: AdjointDPM (Pan et al. 2024), section 4.1.2 and appendix C.

Does a small change of the starting noise make an image that a classifier misreads, although it still shows the same?
From images that it reads as an independent judge does, the noise is searched within a ball around where it started:

    min over |x_T - x_T(0)|_inf <= tau  of  cross-entropy(classifier(x_0(x_T)), the class that came second)

A success is an image that the classifier gives another class, while the judge still sees the first one. The judge takes
no part in the search. Balls are searched from the smallest to the largest, each from where the last search ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from chainrule.diffusion.denoiser import Denoiser
from chainrule.errors import UserError
from chainrule.diffusion.gradient.checkpoint import Checkpoint
from chainrule.losses.classifier import ImageClassifier
from chainrule.models.base import Model
from chainrule.optimise import Adam
from chainrule.diffusion.sampling import sample


class Audit(BaseModel):
    """The settings: balls of the radii `taus` (of noise of variance 1), each searched in so many `iterations`.

    `reach` is the optimiser's rate in radii, `batch` how many images are searched at a time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    taus: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.03, 0.1, 0.3)
    iterations: int = Field(default=6, ge=1)
    steps: int = Field(default=10, ge=1)
    guidance_scale: float | None = None
    reach: float = Field(default=0.4, gt=0)
    batch: int = Field(default=16, ge=1)

    @property
    def radii(self) -> list[float]:
        """The taus from the smallest to the largest."""
        return sorted(set(self.taus))


@dataclass(frozen=True, eq=False)
class AuditTask:
    """The `classifier` to be audited on what the model makes of `prompts` and seeds, and the `judge` of what is there.

    The two must call a class by the same name to mean the same.
    """

    model: Model
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    classifier: ImageClassifier
    judge: ImageClassifier

    def __post_init__(self) -> None:
        if not set(self.classifier.labels) & set(self.judge.labels):
            raise UserError(
                "the classifier and the judge share no class: choose a judge that knows the classifier's labels, as "
                f"{', '.join(self.classifier.labels[:5])}"
            )

    def denoiser(self, chosen: Tensor, guidance_scale: float | None) -> Denoiser:
        """The model told the prompts of the images numbered `chosen` (prompts first, seeds within)."""
        prompts = [self.prompts[i // len(self.seeds)] for i in chosen.tolist()]
        return self.model.denoiser(prompts, guidance_scale=guidance_scale)

    def loss_and_gradient(self, images: Tensor) -> Tensor:
        """What the judge sees (B,), as the classifier's number of that class; -1 where it knows none of that name."""
        of = {label: i for i, label in enumerate(self.classifier.labels)}
        numbers = torch.tensor([of.get(label, -1) for label in self.judge.labels], device=images.device)
        return numbers[self.judge(images).argmax(dim=1)]


class AuditState(NamedTuple):
    """All of an audit at one moment, for the N images of all prompts and seeds.

    `x_T` (N, C, h, w) is the noise to try next, `memory` (2, *x_T.shape) the optimiser's, `start` that of the images
    before the audit; `label` (N,) what classifier and judge saw there (-1: not the same, and so not audited), `second`
    the class that came second; `seen` (N,) what the classifier saw last; `level` (N,) the number of the first radius at
    which it was misled, or of radii; `done` () counts the iterations.
    """

    x_T: Tensor
    memory: Tensor
    start: Tensor
    label: Tensor
    second: Tensor
    seen: Tensor
    level: Tensor
    done: Tensor


@torch.no_grad()
def start(suspect: AuditTask, settings: Audit) -> AuditState:
    """The state before the search: what classifier and judge make of the images."""
    every = torch.arange(len(suspect.prompts) * len(suspect.seeds))
    x_T = suspect.model.noise(suspect.seeds).repeat(len(suspect.prompts), 1, 1, 1)
    images = torch.cat([made(suspect, settings, x_T[part], part) for part in every.split(settings.batch)])
    first, second = suspect.classifier(images).topk(2, dim=1).indices.T
    label = torch.where(suspect.loss_and_gradient(images) == first, first, -1)
    level = torch.full_like(label, len(settings.radii))
    return AuditState(
        x_T, torch.stack([0 * x_T] * 2), x_T, label, second, first, level, torch.zeros((), dtype=torch.long)
    )


def audit(suspect: AuditTask, settings: Audit, state: AuditState) -> Iterator[AuditState]:
    """The states after each iteration, to the end of the last search."""
    for _ in range(int(state.done), len(settings.radii) * settings.iterations + 1):
        state = _advance(suspect, settings, state)
        yield state


def _advance(suspect: AuditTask, settings: Audit, state: AuditState) -> AuditState:
    """Make the images, see who is misled, and move the noise of those that are not."""
    search, k = divmod(int(state.done), settings.iterations)
    radii = settings.radii
    running = torch.nonzero((state.label >= 0) & (state.level == len(radii))).squeeze(1)
    if not len(running):
        return state._replace(done=state.done + 1)
    finished = search == len(radii)
    parts = [_judged(suspect, settings, state, part, finished) for part in running.split(settings.batch)]
    seen, by_judge, gradient = (torch.cat(values) for values in zip(*parts, strict=True))
    if not torch.isfinite(gradient).all():
        raise UserError(f"the gradient is not finite in iteration {int(state.done)}: use float32")

    with torch.no_grad():
        label = state.label[running]
        misled = (seen != label) & (by_judge == label)
        found_in = search - 1 if k == 0 else search  # what the last search left behind is loss_and_gradient in the next one
        level = state.level.clone()
        level[running[misled]] = max(found_in, 0)
        now, still = state.seen.clone(), running[~misled]
        now[running] = seen
        x, memory = state.x_T.clone(), state.memory.clone()
        if not finished:
            tau = radii[search]
            kept = 0 * state.memory[:, still] if k == 0 else state.memory[:, still]
            adam = Adam(rate=settings.reach * tau)
            change, memory[:, still] = adam.update(x[still], gradient[~misled], kept, k)
            x[still] = torch.clamp(x[still] + change, state.start[still] - tau, state.start[still] + tau)
    return state._replace(x_T=x, memory=memory, seen=now, level=level, done=state.done + 1)


def _judged(
    suspect: AuditTask, settings: Audit, state: AuditState, chosen: Tensor, finished: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What classifier and judge see in the images numbered `chosen`, and the gradient of their noise (0 at the end)."""
    with torch.set_grad_enabled(not finished):
        x_T = state.x_T[chosen].requires_grad_(not finished)
        images = made(suspect, settings, x_T, chosen)
        logits = suspect.classifier(images)
        loss = functional.cross_entropy(logits, state.second[chosen], reduction="sum")
        gradient = torch.zeros_like(x_T) if finished else torch.autograd.grad(loss, x_T)[0]
    return logits.detach().argmax(dim=1), suspect.loss_and_gradient(images.detach()), gradient


def made(suspect: AuditTask, settings: Audit, x_T: Tensor, chosen: Tensor) -> Tensor:
    """The images numbered `chosen`, from the noise `x_T` (one for each)."""
    denoiser = suspect.denoiser(chosen, settings.guidance_scale)
    times = suspect.model.schedule.times(settings.steps)
    return suspect.model.decode(sample(denoiser, x_T, times, gradient=Checkpoint()))


@torch.no_grad()
def images(suspect: AuditTask, settings: Audit, state: AuditState, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The images numbered `chosen` before the audit and at its end."""
    before, after = (made(suspect, settings, x[chosen], chosen) for x in (state.start, state.x_T))
    return before, after
