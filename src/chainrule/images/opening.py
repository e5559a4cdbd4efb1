"""Picture files that anyone may have made: opened safely, or refused in one sentence.

Nothing but a regular file is opened (a pipe would be waited for); nothing is decoded that is larger
than a limit; and whatever a decoder raises on a damaged file becomes its true cause. A format that
runs another program (EPS: Ghostscript) is not among those that are read.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from chainrule.errors import UserError, tidy
from chainrule.specs import expand

MOST_PIXELS = 120_000_000
"""How many pixels a picture may have: those of the largest cameras and telephones."""
MOST_BYTES = 1 << 30
"""How large a picture's file may be."""
FORMATS = (
    "PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "AVIF", "HEIF", "JPEG2000", "PPM", "TGA",
    "ICO", "PCX", "PSD", "QOI", "SGI",
)  # fmt: skip
"""What is read, by Pillow's names."""

_NAME = "name a picture, a PNG or a JPEG for example"
_AGAIN = "copy or download it again"
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_ANY_HEIF = {b"mif1", b"mif2", b"msf1"}
"""Brands of the HEIF container, by which coder the picture is of."""
_RAW = (50706, 254)
"""TIFF's tags DNGVersion and NewSubfileType: of a camera's raw file, and of a preview."""


@contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """The picture in a file, its pixels not yet decoded.

    What Pillow raises while the block lasts is the file's fault, and is said so; its warnings are
    not passed on.

    Args:
        path: The file; "~" is the home folder.

    Raises:
        UserError: It is not there, no regular file, not readable, empty, too large, damaged, or
            not a picture of a format that is read.
    """
    with _open_file(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\b")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        prefix = file.read(64)
        _require_readable(path, prefix)
        file.seek(0)
        try:
            with Image.open(file, formats=_known_formats()) as image:
                require_size(path, image)
                _require_picture(path, prefix, image)
                yield image
        except UserError:
            raise
        except Exception as error:  # Pillow's decoders raise whatever they come across
            raise _explain(path, prefix, error) from error


def require_size(path: str | Path, image: Image.Image) -> None:
    """Raise UserError if a picture has too many pixels, or none.

    Args:
        path: What it is called, for the message.
        image: The picture.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise UserError(f"{path} has no pixels ({width}x{height})", _NAME)
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path} has {width}x{height} pixels, more than {MOST_PIXELS / 1e6:g} million",
            "make it smaller first",
        )


@contextmanager
def _open_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A regular file, open. Raises UserError for what is none."""
    try:
        place = expand(path)
        found = os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no file {path}", "name a picture") from None
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # ~nobody, a NUL, too long
        raise UserError(f"{tidy(str(path), 300)} is not a file ({_reason(error)})", _NAME) from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path} is a folder", "name a picture in it")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is a pipe, a socket or a device", "name a file")
    if found.st_size > MOST_BYTES:
        raise UserError(
            f"{path} is {found.st_size / 2**30:.1f} GiB large, more than a picture may be (1 GiB)",
            "make it smaller first",
        )
    try:
        file = open(place, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"{path} cannot be read ({_reason(error)})", "make it readable") from error
    with file:
        yield file


def _require_readable(path: str | Path, prefix: bytes) -> None:
    """Raise UserError for what can be seen in the first bytes of a file."""
    if not prefix:
        raise UserError(f"{path} is empty", _AGAIN)
    if _is_heif(prefix):
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise UserError(
                f"{path} is a HEIC picture, which needs the package pillow-heif",
                "pip install 'chainrule[heic]', or save it as a JPEG",
            ) from None
        register_heif_opener()


def _is_heif(prefix: bytes) -> bool:
    """Whether a file is HEIC, and not AVIF, which Pillow reads by itself."""
    if prefix[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    brands = {prefix[k : k + 4] for k in (8, *range(16, end - 3, 4))}
    return bool(brands & _HEIC) or (bool(brands & _ANY_HEIF) and b"avif" not in brands)


def _known_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _require_picture(path: str | Path, prefix: bytes, image: Image.Image) -> None:
    """Raise UserError for a camera's raw file, of which Pillow would read the small preview."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return
    version, kind = (tags.get(tag) for tag in _RAW)
    if version is not None or kind == 1 or prefix[8:10] == b"CR":
        raise UserError(
            f"{path} begins with a small preview, as a camera's raw files do",
            "save the picture itself, as a PNG or a JPEG",
        )


def _explain(path: str | Path, prefix: bytes, error: Exception) -> UserError:
    """What is wrong with a file that Pillow did not read."""
    reason = _reason(error)
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"{path} has too many pixels ({reason})", "make it smaller first")
    if isinstance(error, MemoryError):
        return UserError(f"there is not enough memory for {path}", "make it smaller first")
    if isinstance(error, UnidentifiedImageError):
        begun = _guess(prefix)
        if begun is None:
            return UserError(f"{path} is not an image", _NAME)
        return UserError(f"{path} is damaged, though it begins as a {begun} does", _AGAIN)
    if "truncated" in reason.lower():
        return UserError(f"{path} is cut off: its end is missing ({reason})", _AGAIN)
    if "MAX_TEXT" in reason:  # how much Pillow unpacks
        return UserError(
            f"{path} holds a text or a profile that is too large ({reason})",
            "save the picture without it",
        )
    return UserError(f"{path} cannot be decoded ({reason})", f"{_AGAIN}, or save it as a PNG")


def _guess(prefix: bytes) -> str | None:
    """The format whose files begin so; None: of none that is known."""
    for name in _known_formats():
        accept = Image.OPEN[name][1]
        if accept is not None and accept(prefix[:16].ljust(16, b"\0")) is True:
            return name
    return None


def _reason(error: BaseException) -> str:
    """An error in a few words of one line."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or errno.errorcode.get(error.errno, "unknown")
    return tidy(str(error).strip() or type(error).__name__, 120)
