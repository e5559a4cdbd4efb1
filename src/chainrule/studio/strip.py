"""What a run shows on its way: small pictures, its losses, and whether its noise is still noise.

All of it is kept beside the runs, not in their folders, so that it outlives the program and a run's
folder is what any face of the library makes of it. Looking is kept to a small share of the time
(`SHARE`); of more pictures than `MOST` every other one is forgotten.

A picture on the way is a preview (`chainrule.studio.preview`). Where an independent judge
can be asked (`chainrule.runs.scores`: on the bundled world), the model decodes the best so far and
the judge is asked of that, as its word on a preview would mean nothing.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from chainrule.diffusion.noise_priors import noise_statistics
from chainrule.errors import UserError
from chainrule.images import open_picture, to_pil
from chainrule.models import Model
from chainrule.runs.events import Done, Event, Iteration, MethodBegun, PictureReady
from chainrule.runs.folder import IMAGES, PREVIEWS, Folder, write_atomically, write_text
from chainrule.runs.scores import find_score
from chainrule.studio.preview import Preview, fit_preview, read_latents

SHARE = 0.03
"""The share of a run's time that looking may take."""
MOST = 24
"""How many pictures of a method's way are kept."""
SHOWN = 4
"""How many of a run's images a small picture shows."""
POINTS = 200
"""How many points of a curve are kept."""
TILE = 192
"""The side of each image in a small picture, in pixels, at most."""
FACTS = "strip.json"
SHEET_OF_ALL = "all"
"""What a run's contact sheet is called, where there are no images but those on it."""
NOISE = ("best_x_T", "x_T")
"""Where states keep the noise of their images, that of the best ones first."""


@dataclass(frozen=True)
class Look:
    """What was seen at a moment.

    Args:
        label: The method at work.
        done: How many of its iterations were done.
        picture: The small picture's name.
        exact: Whether it is what the model decodes; if not, a preview.
        loss: Of the best images so far, their mean.
        score: What the judge says of them, likewise; None: there is none, or it was not asked.
        norm: Of their noise, over that of noise.
        flatness: Of its spectrum: 1 is noise.
        wide: Whether the picture is a sheet of many.
    """

    label: str
    done: int
    picture: str
    exact: bool
    loss: float | None = None
    score: float | None = None
    norm: float | None = None
    flatness: float | None = None
    wide: bool = False


@dataclass(frozen=True)
class Shown:
    """All that is kept of a run's way.

    Args:
        looks: In their order.
        curves: The losses as they were optimised, by method and name.
        judge: What the judge's scores are called; empty: there is none.
    """

    looks: tuple[Look, ...] = ()
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    judge: str = ""

    @classmethod
    def read(cls, place: Path) -> Shown:
        """What is kept in a folder; nothing, if there is none or it is damaged."""
        try:
            found = json.loads((place / FACTS).read_text(encoding="utf-8"))
            return cls(tuple(Look(**each) for each in found["looks"]), found["curves"],
                       found["judge"])  # fmt: skip
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def write(self, place: Path) -> None:
        """Keep it in a folder."""
        place.mkdir(parents=True, exist_ok=True)
        write_text(place / FACTS, json.dumps(asdict(self)))


class Strip:
    """Looks at a run while it is at work, from the thread that does it.

    Args:
        place: The folder in which what it sees is kept.
        folder: The run's.
        model: The run's.
        clock: Seconds.
    """

    def __init__(
        self, place: Path, folder: Folder, model: Model, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.place, self.folder, self.model, self.clock = place, folder, model, clock
        self.shown, self.score = Shown.read(place), find_score(folder.spec)
        if self.score is not None:
            words = f"{self.score.write(0.5)}".partition("50%")[2].strip()
            self.shown = replace(self.shown, judge=f"judge {words}".strip())
        self._preview: Preview | None = None
        self._waits = 0.0
        place.mkdir(parents=True, exist_ok=True)
        photo = folder.spec.inputs.photo
        if photo is not None and not self.shown.looks:
            with suppress(UserError, OSError):
                self._show_sheet("photo", 0, photo, TILE)

    def tell(self, event: Event) -> None:
        """Look, if it is time to. Nothing that goes wrong here is in the run's way."""
        if isinstance(event, MethodBegun):
            self._waits = 0.0
        due = isinstance(event, Iteration) and self.clock() >= self._waits
        if not (due or isinstance(event, (PictureReady, Done))):
            return
        began = self.clock()
        with suppress(UserError, RuntimeError, OSError, ValueError, KeyError, SafetensorError):
            if isinstance(event, Iteration):
                self._look(event.label, event.done)
            elif isinstance(event, PictureReady):
                self._show_written(event)
            elif isinstance(event, Done) and not self._has_images():
                self._show_sheet(SHEET_OF_ALL, 1, event.picture)
        self._waits = self.clock() + (self.clock() - began) / SHARE

    def _has_images(self) -> bool:
        """Whether the run's images are pictures of their own, and not on a sheet only."""
        return any((self.folder.path / IMAGES).glob("*.png"))

    def _show_written(self, event: PictureReady) -> None:
        """A picture that the run wrote: a preview of what it learns, or the last of its images."""
        if event.path.parent.name == PREVIEWS:
            done = int(event.path.stem.rpartition("-")[2])
            self._show_sheet(event.label, done, event.path)
        elif event.path == self._last_image(event.label):
            self._show_images(event.label)

    def _show_sheet(self, label: str, done: int, path: Path, side: int = 4 * TILE) -> None:
        with open_picture(path) as picture:
            sheet = picture.convert("RGB")
        look = Look(label, done, self._choose_name(), True, wide=side > TILE)
        self._keep(look, [sheet], {}, side)

    # --- looking ----------------------------------------------------------------------------------

    def _look(self, label: str, done: int) -> None:
        state = self.folder.state_path(label)
        latents = read_latents(state)
        if latents is None:
            return
        images, exact = self._show(latents[:SHOWN]), self.score is not None
        look = Look(label, done, self._choose_name(), exact, **_measure(state))
        if self.score is not None:
            look = replace(look, score=_mean(self.score.ask(images)))
        self._keep(look, [to_pil(image) for image in images], _read_curves(state, self._terms))

    def _show(self, latents: Tensor) -> Tensor:
        """The pictures of some latents, on the CPU."""
        with torch.no_grad():
            if self.score is not None:
                return self.model.decode(latents.to(self.model.device)).float().cpu()
            if self._preview is None:
                self._preview = fit_preview(self.model, latents)
            return self._preview(latents)

    def _show_images(self, label: str) -> None:
        """What a method has made in the end, once all of it is written."""
        paths = [self.folder.image_path(label, seed) for seed in self.folder.spec.inputs.seed]
        if not all(path.is_file() for path in paths):
            return
        pictures = []
        for path in paths[:SHOWN]:
            with open_picture(path) as picture:
                pictures.append(picture.convert("RGB"))
        state = self.folder.state_path(label)
        before = [each for each in self.shown.looks if each.label == label]
        done = before[-1].done if before else 1
        look = Look(label, done, self._choose_name(), True, **_measure(state))
        if self.score is not None and before:
            look = replace(look, score=before[-1].score)
        self._keep(look, pictures, _read_curves(state, self._terms))

    def _choose_name(self) -> str:
        """A name that no picture ever had, so that a browser may keep each for ever."""
        return f"{len(self.shown.looks)}-{secrets.token_hex(6)}.png"

    def _last_image(self, label: str) -> Path:
        """The image that a method writes last."""
        return self.folder.image_path(label, self.folder.spec.inputs.seed[-1])

    @property
    def _terms(self) -> list[str]:
        return [loss.label for loss in self.folder.spec.losses]

    def _keep(
        self,
        look: Look,
        pictures: Sequence[Image.Image],
        curves: dict[str, list[float]],
        side: int = TILE,
    ) -> None:
        with write_atomically(self.place / look.picture) as path:
            tile(pictures, side).save(path, format="PNG")
        looks, forgotten = _thin(*_put(self.shown.looks, look))
        self.shown = replace(self.shown, looks=looks)
        if curves:
            kept = {**self.shown.curves, look.label: curves}
            self.shown = replace(self.shown, curves=kept)
        self.shown.write(self.place)
        for each in forgotten:
            (self.place / each.picture).unlink(missing_ok=True)


def tile(pictures: Sequence[Image.Image], side: int = TILE) -> Image.Image:
    """Pictures in a square of rows.

    Args:
        pictures: One or more.
        side: The longest side that each has, in pixels; larger ones are made smaller.
    """
    small = [each.copy() for each in pictures]
    for each in small:
        each.thumbnail((side, side))
    across = math.ceil(math.sqrt(len(small)))
    width, height = (max(each.size[axis] for each in small) for axis in (0, 1))
    sheet = Image.new("RGB", (across * width, math.ceil(len(small) / across) * height), "white")
    for place, each in enumerate(small):
        sheet.paste(each, (place % across * width, place // across * height))
    return sheet


def _put(looks: tuple[Look, ...], look: Look) -> tuple[tuple[Look, ...], list[Look]]:
    """Looks with another one, and those whose place it takes.

    A later one of the same moment is of what was written in the end, or of a run that is gone on
    with: it stands where the earlier one stood.
    """
    moment = (look.label, look.done)
    same = [each for each in looks if (each.label, each.done) == moment]
    if not same:
        return (*looks, look), []
    return tuple(look if each in same else each for each in looks), same


def _thin(looks: tuple[Look, ...], forgotten: list[Look]) -> tuple[tuple[Look, ...], list[Look]]:
    """Looks, without every other one of a method that has too many; and all that are forgotten."""
    for label in {look.label for look in looks}:
        own = [each for each in looks if each.label == label]
        forgotten = forgotten + (own[1:-1:2] if len(own) > MOST else [])
    return tuple(each for each in looks if each not in forgotten), forgotten


def _measure(state: Path) -> dict[str, Any]:
    """The loss of the best images so far, and how like noise their noise is."""
    tensors, found = _read(state, ("best_losses", "losses", *NOISE)), dict[str, Any]()
    losses = tensors.get("best_losses", tensors.get("losses"))
    if losses is not None:
        found["loss"] = _mean(losses.tolist())
    noise = next((tensors[name] for name in NOISE if name in tensors), None)
    if noise is not None:
        numbers = noise_statistics(noise[0] if noise.ndim > 4 else noise)  # one of EDICT's pair
        found |= {name: _mean(numbers[name].tolist()) for name in ("norm", "flatness")}
    return found


def _read_curves(state: Path, names: Sequence[str]) -> dict[str, list[float]]:
    """Each optimised loss at each iteration so far, its mean over the images."""
    terms = _read(state, ("terms",)).get("terms")
    if terms is None or terms.ndim != 3 or not len(terms):
        return {}
    rows = terms.float().mean(dim=2)[:: max(1, len(terms) // POINTS)]
    found = {}
    for column in range(rows.shape[1]):
        name = names[column] if column < len(names) else f"noise term {column - len(names) + 1}"
        found[name if name not in found else f"{name} ({column})"] = rows[:, column].tolist()
    return found


def _read(state: Path, names: Sequence[str]) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(state, framework="pt", device="cpu") as file:
        there = set(file.keys())
        return {name: file.get_tensor(name) for name in names if name in there}


def _mean(values: Sequence[float]) -> float | None:
    """The mean; None if it is none that JSON can hold."""
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None
