"""Which networks a run was made with: a run that goes on with others would be none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from chainrule.errors import UserError
from chainrule.specs import Spec, list_networks

SAMPLE = 1 << 20
"""How many bytes are read at the beginning, in the middle and at the end of a file."""


def require_same(path: Path, now: Mapping[str, str]) -> None:
    """Refuse to go on with other networks than those that are noted in a file.

    Args:
        path: The file; there is none if no network is a file.
        now: Their fingerprints as they are.

    Raises:
        UserError: One is not what it was, or it is not known what it was.
    """
    if not now and not path.exists():
        return
    try:
        before = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is missing or damaged", "put it back, or begin the run anew"
        ) from error
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise UserError(f"{name} is not what it was", "put it back, or begin the run anew")


def find_fingerprints(spec: Spec) -> dict[str, str]:
    """The fingerprints of a run's networks that are files or folders here, by their names."""
    places = {name: find_place(name) for name in list_networks(spec)}
    return {name: fingerprint(place) for name, place in places.items() if place is not None}


def find_place(name: str) -> Path | None:
    """Where a network is: `FILE`, `FILE:SCALE` or `WORD=FILE`; None if it is not here."""
    for text in (name, name.rpartition(":")[0], name.partition("=")[2]):
        path = Path(text)
        if text and path.is_absolute() and (path.is_file() or path.is_dir()):
            return path
    return None


def fingerprint(path: Path) -> str:
    """A digest of the sizes and of some of the bytes of a file, or of all files in a folder.

    Not of all bytes: those of a large checkpoint take minutes. A training changes them everywhere.
    """
    digest = hashlib.sha256()
    for name, file in _list_files(path):
        size = file.stat().st_size
        digest.update(f"{name} {size} ".encode())
        with file.open("rb") as opened:
            for start in (0, max(size // 2 - SAMPLE // 2, 0), max(size - SAMPLE, 0)):
                opened.seek(start)
                digest.update(opened.read(SAMPLE))
    return digest.hexdigest()


def _list_files(path: Path) -> Iterator[tuple[str, Path]]:
    """The regular files of a path, each with its name within it, in order."""
    if path.is_file():
        yield path.name, path
        return
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            yield file.relative_to(path).as_posix(), file
