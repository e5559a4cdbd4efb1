"""A run and its folder: what was asked, what came of it, and how to go on after a stop.

    settings.json            what was asked, whole: enough to do it again
    <method>.safetensors     a finished method's latents, noise and losses
    <method>-state.safetensors  an optimisation, after each iteration
    history.json             losses and scores
    images/<method>-<seed>.png, grid.png, loss.png (<method>-loss.png if there are two)

Every file is written under another name and then renamed, so a stop at any moment leaves whole files, and everything
random is replayable, so a resumed run ends with the images of a run that was never stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from chainrule.draw import draw
from chainrule.errors import UserError
from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods import DoodlState, Result, Task
from chainrule.methods.base import decoded, within_memory
from chainrule.methods.doodl import result, run, start
from chainrule.models import BUNDLED
from chainrule.pictures import framed, grid, loss_curves, to_pil
from chainrule.settings import AestheticWish, ClassifierWish, Method, Settings


@dataclass(frozen=True)
class Report:
    """Who is told of a run's progress."""

    on_method: Callable[[Method], None] = lambda method: None
    on_iteration: Callable[[DoodlState], None] = lambda state: None
    on_step: OnStep = lambda done, total: None


class Run:
    """A run folder."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings

    @classmethod
    def new(cls, folder: Path, settings: Settings) -> Run:
        """Make the folder and write the settings. Raises UserError if it holds something or cannot be written."""
        make_folder(folder, settings)
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run. Raises UserError if the folder holds none."""
        path = folder / "settings.json"
        try:
            return cls(folder, Settings.model_validate_json(path.read_text()))
        except FileNotFoundError:
            raise UserError(f"{folder} holds no run (no settings.json): name a folder that chainrule wrote") from None
        except OSError as error:
            raise UserError(
                f"{folder} is not a run's folder ({error.strerror}): name one that chainrule wrote"
            ) from None
        except ValidationError as error:
            raise UserError(f"{path} is not a run of this version of chainrule: {first_line(error)}") from error

    def execute(self, task: Task, report: Report | None = None) -> Path:
        """Do what is not yet done of `task` (the settings'), then write the pictures; returns the grid's path.

        If the work is interrupted, the pictures of the best so far are written before the exception goes on.
        """
        report = report or Report()
        try:
            for method in self.settings.methods:
                if not self._path(method).exists():
                    report.on_method(method)
                    result = self._do(method, task, report)
                    if result.attention is not None:
                        self._save_attention(task, result.attention)
                    self._save(method, result)
        except (KeyboardInterrupt, UserError):
            self.write_pictures(task)
            raise
        return self.write_pictures(task)

    def _do(self, method: Method, task: Task, report: Report) -> Result:
        optimised = self.settings.optimised.get(method)
        if optimised is None:
            return within_memory(task, lambda task: draw(self.settings, method, task, report.on_step))[0]
        kept = self._load_state(method)
        last, task = within_memory(task, lambda task: kept or start(task, optimised, on_step=report.on_step))
        for state in run(task, optimised, last, report.on_step):
            last = state
            self._save_state(method, state)
            report.on_iteration(state)
        return within_memory(task, lambda task: result(task, optimised, last, report.on_step))[0]

    # --- files ------------------------------------------------------------------------------------------------------

    def _path(self, method: str) -> Path:
        return self.folder / f"{method}.safetensors"

    def _save(self, method: str, result: Result) -> None:
        tensors = {"latents": result.latents, "x_T": result.x_T}
        if result.losses is not None:
            tensors["losses"] = result.losses
        with atomic(self._path(method)) as path:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)

    def _save_attention(self, task: Task, attention: Tensor) -> None:
        """Write where each word of the prompt looks, attention (B, K, h', w')."""
        tokens = task.model.text.tokens(self.settings.prompt)
        marks = set(task.model.text.tokens(""))
        words = {f"{i} {token}": i for i, token in enumerate(tokens) if token not in marks}
        rows = [f"seed {seed}" for seed in self.settings.seeds]
        maps = {word: attention[:, i : i + 1] for word, i in words.items()}
        shown = {word: (m / m.amax(dim=(2, 3), keepdim=True)).expand(-1, 3, -1, -1) for word, m in maps.items()}
        with atomic(self.folder / "attention.png") as path:
            picture = grid(shown, rows, {word: [""] * len(rows) for word in words}, title=self._title())
            save_picture(picture, path, self.settings)

    def _save_state(self, method: Method, state: DoodlState) -> None:
        with atomic(self._path(f"{method}-state")) as path:
            save_file({name: tensor.contiguous().cpu().clone() for name, tensor in state._asdict().items()}, path)

    def _load_state(self, method: str) -> DoodlState | None:
        path = self._path(f"{method}-state")
        return DoodlState(**load_file(path, device=self.settings.device)) if path.exists() else None

    def latents(self, method: str) -> Tensor | None:
        """The latents of a finished method, or of the best so far of an unfinished optimisation; None before that."""
        if self._path(method).exists():
            return load_file(self._path(method), device=self.settings.device)["latents"]
        state = self._load_state(method)
        return None if state is None else state.best_latents

    @torch.no_grad()
    def write_pictures(self, task: Task) -> Path:
        """Write the images, the grid, the loss curve and the history of what there is so far."""
        settings = self.settings
        images: dict[str, Tensor] = {
            m: decoded(task, z) for m in settings.methods if (z := self.latents(m)) is not None
        }
        if task.photo is not None:
            images = {"photo": task.photo.images} | images
        score = self._scorer(task)
        scores = {method: score(batch) for method, batch in images.items()}
        if task.photo is not None:
            images = {method: framed(batch, task.photo.size) for method, batch in images.items()}
        (self.folder / "images").mkdir(exist_ok=True)
        states = {m: state for m in settings.optimised if (state := self._load_state(m)) is not None}
        for method, state in states.items():
            if not self._path(method).exists():
                # what was stopped is made again by as many iterations as were done
                so_far = settings.optimised[method].model_copy(update={"iterations": state.iteration - 1})
                settings = settings.model_copy(update={method.replace("-", "_"): so_far})
        for method in (m for m in settings.methods if m in images):
            for seed, image in zip(settings.seeds, images[method], strict=True):
                with atomic(self.folder / "images" / f"{method}-{seed}.png") as path:
                    save_picture(to_pil(image), path, settings, method, seed)
        if task.photo is not None and settings.photo is None:  # the model's own pictures are nowhere else
            for seed, image in zip(settings.seeds, images["photo"], strict=True):
                with atomic(self.folder / "images" / f"photo-{seed}.png") as path:
                    save_picture(to_pil(image), path, settings, None, seed)
        history: dict[str, object] = {"seeds": settings.seeds, "scores": scores}
        for method, state in states.items():
            names = task.wanted().names
            history[method] = state.history.tolist()
            terms = [{"name": name, "values": state.terms[:, i].tolist()} for i, name in enumerate(names)]
            history[f"{method} terms"] = terms
            curves = {"loss": state.history.cpu()}
            if len(names) > 1:
                curves |= {name: state.terms[:, i].cpu() for i, name in enumerate(names)}
            with atomic(self.folder / ("loss.png" if len(states) == 1 else f"{method}-loss.png")) as path:
                save_picture(loss_curves(curves, settings.seeds), path, settings)
        with atomic(self.folder / "history.json") as path:
            path.write_text(json.dumps(history, indent=1))
        with atomic(self.folder / "grid.png") as path:
            rows = [f"seed {seed}" for seed in settings.seeds]
            save_picture(grid(images, rows, scores, title=self._title()), path, settings)
        return self.folder / "grid.png"

    def _scorer(self, task: Task) -> Callable[[Tensor], list[str]]:
        """What stands under each image: on the bundled world, how sure the independent judge is of the wanted class."""
        loss, wishes = task.loss, self.settings.wishes
        if loss is None:
            return lambda images: [""] * len(images)
        first = wishes[0]
        if self.settings.model != BUNDLED:
            return lambda images: [f"loss {value:.3f}" for value in loss(images).tolist()]
        if isinstance(first, AestheticWish) and first.head is None:
            from chainrule.scenes.rating import rating

            return lambda images: [f"judge: {rating(image):.1f} of 10" for image in images]
        if isinstance(first, ClassifierWish) and first.model is None:
            from chainrule.scenes.judge import load_judge, probabilities

            judge, target = load_judge(), first.target
            column = judge.index(target)
            return lambda images: [f"judge: {p:.0%} {target}" for p in probabilities(judge, images.cpu())[:, column]]
        return lambda images: [f"loss {value:.3f}" for value in loss(images).tolist()]

    def _title(self) -> str:
        wishes = ", ".join(wish.label for wish in self.settings.wishes)
        settings = self.settings
        shown = settings.photo.name if settings.photo else settings.source
        what = f"{shown}  {settings.prompt}".strip()
        return what + (f"   ->   {wishes}" if wishes else "")


def make_folder(folder: Path, settings: BaseModel) -> None:
    """A new folder with `settings.json`. Raises UserError if it holds something or cannot be written."""
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "settings.json") as path:
            path.write_text(settings.model_dump_json(indent=2))
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another --output") from error


def check_folder(folder: Path) -> None:
    """Raise UserError if a folder of that name holds something."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: choose another --output, or `chainrule resume {folder}`")


class Origin(BaseModel):
    """What a picture carries: the settings of its run, and which image of it this is (None: one of all of them)."""

    version: str
    settings: Settings
    method: Method | None
    seed: int | None


def save_picture(
    image: Image.Image, path: Path, settings: Settings, method: Method | None = None, seed: int | None = None
) -> None:
    """Write a PNG that carries its settings."""
    info = PngImagePlugin.PngInfo()
    origin = Origin(version=chainrule.__version__, settings=settings, method=method, seed=seed)
    info.add_itxt("chainrule", origin.model_dump_json())
    image.save(path, format="PNG", pnginfo=info)


def origin(picture: Path) -> Origin:
    """What a picture carries. Raises UserError if it is missing or carries nothing."""
    try:
        with Image.open(picture) as image:
            text = getattr(image, "text", {}).get("chainrule")
    except FileNotFoundError:
        raise UserError(f"there is no file {picture}: name a picture that chainrule wrote") from None
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{picture} is not an image: name a picture that chainrule wrote") from error
    if text is None:
        raise UserError(f"{picture} carries no settings: name a picture that chainrule wrote")
    try:
        return Origin.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{picture} is not of this version of chainrule: {first_line(error)}") from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` only when all is written."""
    partial = path.with_name(f".part-{path.name}")
    yield partial
    os.replace(partial, path)


def first_line(error: ValidationError) -> str:
    """The first problem of a failed validation in one line: where, and what."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where} cannot be {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
