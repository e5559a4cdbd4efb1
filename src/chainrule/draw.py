"""What a run asks of each method that does not iterate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from chainrule.errors import UserError
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance import semantic as by
from chainrule.diffusion.guidance.base import Energy
from chainrule.losses import load_clip
from chainrule.methods import (
    Result,
    Task,
    asyrp,
    best_of,
    blended,
    diffedit,
    edict,
    ilvr,
    noise_aware,
    one_step,
    one_step_edit,
    plain,
    prompt_to_prompt,
    reconstruction,
    repaint,
    sdedit,
    semantic,
)
from chainrule.methods.base import encoded
from chainrule.pictures import load_picture, resized
from chainrule.settings import GRIDS, SOLVERS, ClassifierWish, FeaturesWish, ImageWish, Method, Settings, TextWish
from chainrule.diffusion.solvers import DDIM

if TYPE_CHECKING:
    from chainrule.models.noise_aware import NoiseAwareEncoder


def draw(settings: Settings, method: Method, task: Task, on_step: OnStep | None = None) -> Result:
    """What a method that does not iterate makes of `task` (the settings', or some of its images)."""
    chain: dict[str, Any] = {"steps": settings.steps, "on_step": on_step}
    redone = chain if settings.strength is None else chain | {"strength": settings.strength}
    solver: dict[str, Any] = {"solver": settings.doodl.solver} if settings.edits else {}
    asked = settings.editing.named
    match method:
        case "plain":
            grid = settings.grid and GRIDS[settings.grid]
            return plain(task, solver=SOLVERS[settings.solver], grid=grid, **chain)
        case "best-of":
            return best_of(task, settings.best_of, **chain)
        case "noise-aware":
            return noise_aware(
                task, energy=energy(settings), scale=settings.noise_aware_scale, **redone, **asked("eta")
            )
        case "one-step" if not settings.edits:
            return one_step(task, scale=settings.one_step_scale, **chain)
        case "one-step":
            return one_step_edit(task, scale=settings.one_step_scale, **redone, **solver)
        case "reconstruction":
            return reconstruction(task, **redone, **solver)
        case "edict":
            return edict(task, **redone, **solver)
        case "ddim":
            return edict(task, solver=DDIM(), **redone)
        case "sdedit":
            return sdedit(task, **redone, **asked("repeats", "eta"))
        case "ilvr":
            return ilvr(task, **chain, **asked("factor", "eta"))
        case "repaint":
            return repaint(task, **chain, **asked("repeats", "eta"))
        case "semantic":
            return semantic(task, energies=energies(settings, task), **redone, **asked("scale", "eta"))
        case "blended":
            return blended(task, **redone, **asked("scale", "eta"))
        case "diffedit":
            return diffedit(task, **redone)
        case "prompt-to-prompt":
            attention = settings.editing.attention
            return prompt_to_prompt(task, settings.source, settings.prompt, attention=attention, **chain, **solver)
        case "asyrp":
            return asyrp(task, **chain, **asked("scale"))
    raise ValueError(f"{method} iterates")


def energy(settings: Settings) -> Energy:
    """What the noise-aware classifier says of the first loss's class; raises UserError if there is none."""
    first = next(iter(settings.wishes), None)
    if not isinstance(first, ClassifierWish):
        raise UserError("the noise-aware classifier knows shapes: ask for one first, with --loss classifier=SHAPE")
    from chainrule.models.noise_aware import load_noise_aware

    return load_noise_aware(first.target, settings.device)


def energies(settings: Settings, task: Task) -> list[tuple[float, Energy]]:
    """What semantic guidance is told: the losses of text, image, perceptual (layout) and style, with their weights.

    Without losses, an edit is told its prompt and the layout of its photo. Raises UserError for other losses.
    """
    from chainrule.models.noise_aware import load_noise_aware_encoder

    encoder, clip = load_noise_aware_encoder(settings.device), load_clip(None, settings.device)
    found: list[tuple[float, Energy]] = []
    for wish in settings.wishes:
        match wish:
            case TextWish():
                found.append((wish.weight, by.Text(encoder, clip.embed_texts([wish.target]))))
            case ImageWish() | FeaturesWish():
                kinds: dict[str, Any] = {"image": by.Image, "perceptual": by.Layout, "style": by.Style}
                kind = kinds[wish.kind]
                pictures = wish.target if isinstance(wish.target, tuple) else (wish.target,)
                found += [(wish.weight / len(pictures), kind(_like(task, encoder, path))) for path in pictures]
            case _:
                raise UserError(f"semantic guidance knows text, image, perceptual and style, not {wish.label}")
    if not found and task.photo is not None:
        wanted = by.Text(encoder, clip.embed_texts([settings.prompt]))
        found = [(1.0, wanted), (1.0, by.Layout(by.Likeness(encoder, task.model.schedule, encoded(task))))]
    return found


def _like(task: Task, encoder: NoiseAwareEncoder, path: Path) -> by.Likeness:
    """A picture to be like, at the size of the task's images."""
    size = tuple(side * task.model.codec.factor for side in task.x_T.shape[-2:])
    with torch.no_grad():
        z = task.model.encode(resized(load_picture(path)[None].to(task.model.device), size))
    return by.Likeness(encoder, task.model.schedule, z)
