"""The runs of a folder for people: a list, found words, thumbnails, one of them whole, a zip.

Listing reads each run's `spec.json` once; what was read is kept until that file changes. Nothing is
opened by a name from outside but what a listing of the run's own folder has.
"""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from chainrule.errors import UserError
from chainrule.images import open_picture
from chainrule.runs.folder import IMAGES, INPUTS, PREVIEWS, SHEET, SPEC, write_atomically
from chainrule.studio.desk import SAFE, STRIPS, THUMBS, Desk
from chainrule.studio.strip import Shown

PAGE = 24
"""How many runs a page shows."""
THUMB = 320
"""The longest side of a thumbnail, in pixels."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LISTED = ("", IMAGES, INPUTS, PREVIEWS)
"""The folders of a run's folder."""


@dataclass(frozen=True)
class Card:
    """A run in a list.

    Args:
        name: Of its folder.
        changed: When its spec was written, in seconds since 1970.
        prompt: What its images show.
        methods: Their kinds.
        losses: In short.
        status: What became of it; of a run of the terminal "done", or "unfinished".
    """

    name: str
    changed: float
    prompt: str
    methods: tuple[str, ...]
    losses: tuple[str, ...]
    status: str

    def has(self, words: Sequence[str]) -> bool:
        """Whether all of some words, in lower case, are in what is known of it."""
        said = " ".join((self.name, self.prompt, *self.methods, *self.losses, self.status)).lower()
        return all(word in said for word in words)


class Listing:
    """The runs of a desk's folder, also those of the terminal.

    Args:
        desk: Whose.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._read: dict[str, tuple[int, Card]] = {}
        self._lock = threading.Lock()

    def list_cards(self, words: str = "") -> list[Card]:
        """All runs, the newest first.

        Args:
            words: Those that each must have, in its name, prompt, methods, losses or status.
        """
        statuses = {entry.name: entry.status for entry in self.desk.entries()}
        wanted, found = words.lower().split(), []
        with os.scandir(self.desk.folder) as folders:
            for folder in folders:
                named = SAFE.fullmatch(folder.name) and not folder.is_symlink()
                card = self._find_card(folder.path, folder.name, statuses) if named else None
                if card is not None and card.has(wanted):
                    found.append(card)
        return sorted(found, key=lambda card: (-card.changed, card.name))

    def _find_card(self, path: str, name: str, statuses: Mapping[str, str]) -> Card | None:
        """A run's card; None of a folder without a run, or with one that nobody can read."""
        try:
            changed = os.stat(os.path.join(path, SPEC)).st_mtime_ns
            with self._lock:
                kept = self._read.get(name)
            if kept is None or kept[0] != changed:
                with open(os.path.join(path, SPEC), encoding="utf-8") as file:
                    kept = changed, _read_card(name, changed / 1e9, json.load(file))
                with self._lock:
                    self._read[name] = kept
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return None
        card = kept[1]
        done = os.path.exists(os.path.join(path, SHEET))
        status = statuses.get(name, "done" if done else "unfinished")
        return Card(card.name, card.changed, card.prompt, card.methods, card.losses, status)

    # --- pictures ---------------------------------------------------------------------------------

    def find_file(self, name: str, file: str) -> Path:
        """A file of a run by its name in it, as `images/plain-0000.png`.

        Raises:
            UserError: There is none of that name: whatever is not in the listing is not there.
        """
        for path in list_files(self.desk.path(name)):
            if path.relative_to(self.desk.folder / name).as_posix() == file:
                return path
        raise UserError(f"the run {name} has no file {file[:80]!r}", "choose one of the list")

    def find_look(self, name: str, picture: str) -> Path:
        """A small picture of a run's way. Raises UserError if there is none of that name."""
        place = self.desk.side(STRIPS) / self.desk.path(name).name
        for look in Shown.read(place).looks:
            if look.picture == picture and (place / look.picture).is_file():
                return place / look.picture
        raise UserError(f"the run {name} shows no {picture[:80]!r}", "load the page again")

    def find_thumb(self, name: str) -> Path:
        """A small picture of a run, made when it is first asked for, and again when it changed.

        Raises:
            UserError: There is no such run, or it has no picture yet.
        """
        path = self.desk.path(name)
        source = next(iter(list_pictures(path)), None)
        if source is None:
            looks = Shown.read(self.desk.side(STRIPS) / name).looks
            if not looks:
                raise UserError(f"the run {name} has no picture yet", "wait for it")
            return self.find_look(name, looks[-1].picture)
        stat = source.stat()
        kept = self.desk.side(THUMBS) / f"{name}-{stat.st_mtime_ns}-{stat.st_size}.png"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            for old in kept.parent.glob(f"{name}-*-*.png"):
                if old.name.rsplit("-", 2)[0] == name:
                    old.unlink(missing_ok=True)
            with open_picture(source) as picture, write_atomically(kept) as partial:
                small = picture.convert("RGB")
                small.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
                small.save(partial, format="PNG")
        return kept


def _read_card(name: str, changed: float, values: Mapping[str, Any]) -> Card:
    """What a list says of a run, from its spec as it is written."""
    inputs = values["inputs"]
    prompt = inputs.get("prompt") or ""
    first = prompt if isinstance(prompt, str) else next(iter(prompt), "")
    losses = tuple(_name_loss(loss) for loss in values.get("losses") or ())
    methods = tuple(str(method["kind"]) for method in values["methods"])
    return Card(name, changed, str(first or inputs.get("source") or ""), methods, losses, "")


def _name_loss(loss: Mapping[str, Any]) -> str:
    """A loss in short, as `LossSpec.label` has it."""
    target = loss.get("target")
    several = target if isinstance(target, list) else [target]
    said = ",".join(Path(str(each)).name for each in several)
    return str(loss["kind"]) if target is None else f"{loss['kind']}={said}"


def list_files(path: Path) -> list[Path]:
    """The files of a run's folder that are whole: no link, nothing hidden."""
    found: list[Path] = []
    for part in LISTED:
        folder = path / part
        if folder.is_symlink() or not folder.is_dir():
            continue
        found += [
            file
            for file in sorted(folder.iterdir())
            if file.is_file() and not file.is_symlink() and not file.name.startswith(".")
        ]
    return found


def list_pictures(path: Path) -> list[Path]:
    """The pictures that a run has made: its images, else its contact sheet; of a training its
    previews, the last one first."""
    images = [each for each in list_files(path) if each.suffix.lower() in PICTURES]
    made = [each for each in images if each.parent.name == IMAGES]
    best = [each for each in made if not each.name.startswith("plain-")] or made
    sheet = [each for each in images if each.name == SHEET]
    previews = [each for each in images if each.parent.name == PREVIEWS]
    ordered = [*best, *(each for each in made if each not in best)]
    return ordered or sheet or previews[::-1]


def list_artefacts(path: Path) -> list[Path]:
    """What a run has learnt, as files: words and LoRAs, no states."""
    names = ("embedding.safetensors", "pytorch_lora_weights.safetensors")
    return [each for each in list_files(path) if each.name.endswith(names)]


def read_report(path: Path) -> dict[str, Any]:
    """The report of a run; empty, if there is none yet."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((path / "report.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def zip_run(path: Path) -> Iterator[bytes]:
    """A run's folder as a zip, part by part, so that none of it is held as a whole.

    Args:
        path: The run's folder.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for file in _walk(path):
            name = f"{path.name}/{file.relative_to(path).as_posix()}"
            info = zipfile.ZipInfo.from_file(file, name)
            with archive.open(info, "w") as entry, file.open("rb") as source:
                while part := source.read(1 << 20):
                    entry.write(part)
                    yield sink.take()
            yield sink.take()
    yield sink.take()


def _walk(path: Path) -> Iterator[Path]:
    """The files of a folder and of those in it; a link is neither read nor followed."""
    for found in sorted(path.iterdir()):
        if found.is_symlink() or found.name.startswith("."):
            continue
        if found.is_dir():
            yield from _walk(found)
        elif found.is_file():
            yield found


class _Sink(io.RawIOBase):
    """What is written to it can be taken away."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self.parts.append(bytes(part))
        return len(part)

    def take(self) -> bytes:
        """What was written since it was last asked."""
        parts, self.parts = self.parts, []
        return b"".join(parts)
