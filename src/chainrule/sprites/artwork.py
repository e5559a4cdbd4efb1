"""The artwork: three open families of emoji, fetched from their packages, never committed.

| style | package | drawn by | licence |
| --- | --- | --- | --- |
| "as a sticker" | `emoji-datasource-google` 16.0.0 | Noto Emoji, Google | SIL OFL 1.1 |
| "drawn flat" | `emoji-datasource-twitter` 16.0.0 | Twemoji, Twitter and others | CC BY 4.0 |
| "in 3D" | `@lobehub/fluent-emoji-3d` 1.1.0 | Fluent Emoji, Microsoft | MIT |
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from chainrule.errors import UserError
from chainrule.sprites.things import KINDS, Kind

SIDE = 64
"""Width and height of a picture in the artwork, in pixels; the thing fills one of them."""


@dataclass(frozen=True)
class Style:
    """A family of pictures.

    Args:
        words: What captions say of it.
        package: Its package in the registry of JavaScript.
        version: The package's.
        path: A picture's path in the package; `{}` is its code points.
    """

    words: str
    package: str
    version: str
    path: str


STYLES = {
    "sticker": Style(
        "as a sticker", "emoji-datasource-google", "16.0.0", "package/img/google/64/{}.png"
    ),
    "flat": Style(
        "drawn flat", "emoji-datasource-twitter", "16.0.0", "package/img/twitter/64/{}.png"
    ),
    "3d": Style("in 3D", "@lobehub/fluent-emoji-3d", "1.1.0", "package/assets/{}.webp"),
}
LIST = "package/emoji.json"
"""Which code points a short name has, in the first package."""


@dataclass(frozen=True, eq=False)
class Artwork:
    """All pictures.

    Args:
        pixels: (styles, kinds, 64, 64, 4), uint8, in the order of `STYLES` and `KINDS`.
    """

    pixels: np.ndarray

    def picture(self, kind: str, style: str) -> Image.Image:
        """A thing of a style, RGBA, 64x64 pixels."""
        s, k = list(STYLES).index(style), list(KINDS).index(kind)
        return Image.fromarray(self.pixels[s, k])


def load_artwork(folder: Path) -> Artwork:
    """The artwork, from a folder; fetched with `npm` if it is not there yet (150 MB, kept as 8).

    Args:
        folder: Where it is kept.

    Raises:
        UserError: It is not there and cannot be fetched.
    """
    kept = folder / "artwork.npz"
    if not kept.exists():
        pixels = np.stack(_read_packages(folder))
        partial = folder / "part.npz"
        np.savez_compressed(partial, pixels=pixels)
        partial.replace(kept)
    with np.load(kept) as arrays:
        artwork = Artwork(arrays["pixels"])
    if artwork.pixels.shape[:2] != (len(STYLES), len(KINDS)):
        raise UserError(f"{kept} is of other things than today's", "delete it: it is made again")
    return artwork


def _read_packages(folder: Path) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    first, *_ = archives = [_fetch(style, folder) for style in STYLES.values()]
    with tarfile.open(first) as archive:
        points = _read_points(archive)
    found = []
    for style, path in zip(STYLES.values(), archives, strict=True):
        with tarfile.open(path) as archive:
            names = set(archive.getnames())
            found.append(
                np.stack([_read(archive, names, style, points, k) for k in KINDS.values()])
            )
    return found


def _fetch(style: Style, folder: Path) -> Path:
    """The package's archive."""
    flat = style.package.replace("@", "").replace("/", "-")
    path = folder / f"{flat}-{style.version}.tgz"
    if path.exists():
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"the artwork {style.package} is not in {folder}",
            "install npm, which fetches it, or put the package's archive there",
        )
    wanted = f"{style.package}@{style.version}"
    done = subprocess.run([npm, "pack", wanted], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"npm could not fetch {wanted}: {(done.stderr.strip().splitlines() or ['?'])[-1]}",
            f"put the package's archive into {folder}",
        )
    return path


def _read_points(archive: tarfile.TarFile) -> dict[str, str]:
    """The code points, as files are called by them, of each short name."""
    entries = json.loads(_open(archive, LIST).read())
    return {
        name: entry["unified"].lower()
        for entry in entries
        for name in reversed(entry["short_names"])
    }


def _read(
    archive: tarfile.TarFile, names: set[str], style: Style, points: dict[str, str], kind: Kind
) -> np.ndarray:
    code = points[kind.emoji]
    bare = code.replace("-fe0f", "")
    paths = [style.path.format(name) for name in (code, bare, f"{bare}-fe0f", bare.lstrip("0"))]
    path = next((path for path in paths if path in names), None)
    if path is None:
        raise UserError(
            f"{style.package} has no picture of {kind.emoji}", "fetch its version again"
        )
    return np.asarray(_fit(Image.open(io.BytesIO(_open(archive, path).read())).convert("RGBA")))


def _open(archive: tarfile.TarFile, path: str) -> IO[bytes]:
    file = archive.extractfile(path)
    if file is None:
        raise UserError(f"{archive.name!r} holds no file {path}", "fetch the package again")
    return file


def _fit(picture: Image.Image) -> Image.Image:
    """The picture without its margins, as large as fits, in the middle of the square."""
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    scale = SIDE / max(picture.size)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    small = resize(picture, width, height)
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(small, ((SIDE - width) // 2, (SIDE - height) // 2))
    return square


def resize(picture: Image.Image, width: int, height: int) -> Image.Image:
    """An RGBA picture in another size; what is transparent has no colour to bleed."""
    return picture.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
