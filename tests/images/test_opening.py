"""Files that people bring as pictures: read right, or refused in one sentence with the true cause."""

from __future__ import annotations

import io
import os
import resource
import socket
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from chainrule import UserError
from chainrule.images import load_mask, load_picture, opening, read_picture
from chainrule.losses import parse_loss
from chainrule.losses.registry import LOSSES
from chainrule.runs import read_origin

PHOTOS = Path(__file__).parents[3] / "shared" / "files" / "photos"
real = pytest.mark.skipif(
    not PHOTOS.exists(), reason="the small real files are not on this machine"
)
READERS: dict[str, Callable[[Path], object]] = {
    "photo": read_picture,
    "picture": load_picture,
    "mask": lambda path: load_mask(path, (8, 8), (8, 8)),
    "rerun": read_origin,
    **{
        kind: lambda path, kind=kind: (
            LOSSES[kind].model_validate(parse_loss(f"{kind}={path}")).load()
        )
        for kind in ("picture", "histogram", "perceptual", "style", "image")
    },
}
"""Everything that opens a picture somebody names."""


def refuse(path: Path, read: Callable[[Path], object] = read_picture) -> str:
    """The sentence with which a file is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as caught:
            read(path)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said.replace(str(path), "FILE")) < 500
    assert caught.value.cure
    return said


# --- what is no regular file --------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[dict[str, Path]]:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.svg").write_text("<svg></svg>")
    os.symlink(tmp_path / "fifo", tmp_path / "link.png")
    os.symlink(tmp_path / "loop.png", tmp_path / "loop.png")
    here = os.getcwd()
    os.chdir(tmp_path)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        os.chdir(here)
        yield {
            "a pipe": tmp_path / "fifo",
            "a link to a pipe": tmp_path / "link.png",
            "a link to itself": tmp_path / "loop.png",
            "a socket": tmp_path / "socket",
            "a device": Path("/dev/zero"),
            "a folder": tmp_path,
            "nothing": tmp_path / "none.png",
            "below a file": tmp_path / "text.png" / "x.png",
            "an empty file": tmp_path / "empty.png",
            "a text": tmp_path / "text.png",
            "a drawing": tmp_path / "text.svg",
            "a long name": tmp_path / ("x" * 5000),
            "no user's home": Path("~nosuchuser/x.png"),
        }


SAID = {
    "a pipe": "is a pipe, a socket or a device: name a file",
    "a link to a pipe": "is a pipe, a socket or a device",
    "a link to itself": "is not a file",
    "a socket": "is a pipe, a socket or a device",
    "a device": "is a pipe, a socket or a device",
    "a folder": "is a folder: name a picture in it",
    "nothing": "there is no file",
    "below a file": "there is no file",
    "an empty file": "is empty: copy or download it again",
    "a text": "is not an image: name a picture",
    "a drawing": "is not an image",
    "a long name": "is not a file (File name too long)",
    "no user's home": "is not a file",
}


@pytest.mark.parametrize("what", SAID)
def test_what_is_no_picture_is_said_so_at_once(odd: dict[str, Path], what: str) -> None:
    assert SAID[what] in refuse(odd[what])


@pytest.mark.parametrize("reader", READERS)
def test_nobody_waits_for_a_pipe(odd: dict[str, Path], reader: str) -> None:
    assert "is a pipe, a socket or a device" in refuse(odd["a pipe"], READERS[reader])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_said_so(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    assert "cannot be read (Permission denied)" in refuse(tmp_path / "x.png")


def test_a_system_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> object:
        raise PermissionError(13, "Permission denied")

    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    monkeypatch.setattr("builtins.open", deny)
    assert "cannot be read (Permission denied): make it readable" in refuse(tmp_path / "x.png")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.heic"
    with path.open("wb") as file:
        file.write(struct.pack(">I4s4s4s", 16, b"ftyp", b"heic", bytes(4)))
        file.truncate(1 << 40)
    assert "is 1024.0 GiB large" in refuse(path)


# --- bombs --------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, kind: int = 2) -> bytes:
    """A PNG whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + (3 if kind == 2 else 1) * min(width, 64)) * min(height, 64)))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(width: int, height: int, *more: tuple[int, int, int]) -> bytes:
    tags = sorted(
        [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 200),
         (277, 3, 1), (278, 4, height), (279, 4, min(width * height, 2**32 - 1)), *more]
    )  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + bytes(64 * 64)


def gif(width: int, height: int) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"
    return b"GIF89a" + screen + frame


def bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def ico(picture: bytes) -> bytes:
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + picture


def webp(width: int, height: int) -> bytes:
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


TEXT = zlib.compress(bytes(64 << 20), 9)
BOMBS = {
    "pixels.png": (png(30_000, 30_000), "pixels"),
    "most-pixels.png": (png(2**31 - 1, 2**31 - 1), "pixels|damaged"),
    "warned-of.png": (png(12_500, 10_000), "has 12500x10000 pixels, more than 120 million: make"),
    "text.png": (png(8, 8, chunk(b"zTXt", b"a\0\0" + TEXT)), "a text or a profile that is too large"),
    "international.png": (png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + TEXT)), "text or a profile that is too"),
    "profile.png": (png(8, 8, chunk(b"iCCP", b"a\0\0" + TEXT)), "text or a profile that is too large"),
    "pixels.gif": (gif(65_535, 65_535), "pixels"),
    "pixels.tiff": (tiff(60_000, 60_000), "pixels"),
    "pixels.bmp": (bmp(60_000, 60_000), "pixels"),
    "pixels.webp": (webp(1 << 24, 1 << 24), "pixels|damaged|decoded|not an image"),
    "pixels.ico": (ico(png(30_000, 30_000)), "pixels"),
    "pixels.ppm": (b"P6 60000 60000 255\n", "pixels"),
    "pixels.pgm": (b"P5 " + b"9" * 5000 + b" 1 255\n", "pixels|damaged|decoded"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_not_lit(name: str, tmp_path: Path) -> None:
    data, words = BOMBS[name]
    (tmp_path / name).write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = refuse(tmp_path / name)
    assert any(word in said for word in words.split("|")), said
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (200 << 10 if sys.platform == "linux" else 200 << 20)
    assert refuse(tmp_path / name, read_origin).endswith("name a picture that chainrule wrote")


def test_texts_that_are_many_are_refused_as_well(tmp_path: Path) -> None:
    text = zlib.compress(bytes(1000 << 10), 9)
    parts = [chunk(b"zTXt", b"%d\0\0" % k + text) for k in range(80)]
    (tmp_path / "x.png").write_bytes(png(8, 8, *parts))
    assert "text or a profile that is too large" in refuse(tmp_path / "x.png")


def test_nobody_is_warned_of_a_picture_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's own limit is lower, and a program may have set it."""
    Image.new("RGB", (80, 80)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_picture(tmp_path / "x.png").shape == (3, 80, 80)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "too many pixels" in refuse(tmp_path / "x.png")


# --- damaged files ------------------------------------------------------------------------------


@cache
def valid() -> dict[str, bytes]:
    """A small picture in every format that Pillow writes here, with all that files carry."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((20, 24))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b" * 99, zip=True)
    info.add_itxt("c", "d" * 99, zip=True)
    carried = {"exif": exif, "icc_profile": profile}
    try:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    except ImportError:
        pass
    found: dict[str, bytes] = {}
    for name, picture, kind, more in (
        *((kind, image, kind, {}) for kind in opening.FORMATS),
        *((f"{kind} carrying", image, kind, carried) for kind in ("JPEG", "WEBP", "TIFF", "HEIF", "AVIF")),
        ("PNG carrying", image, "PNG", {**carried, "pnginfo": info}),
        *((f"{kind} alpha", image.convert("RGBA"), kind, {}) for kind in ("PNG", "WEBP", "GIF", "TIFF", "TGA")),
        ("PNG palette", image.convert("P"), "PNG", {"transparency": 3}),
        ("PNG moving", image, "PNG", {"save_all": True, "append_images": [image.rotate(9)]}),
        ("GIF moving", image, "GIF", {"save_all": True, "append_images": [image.rotate(9)]}),
        ("JPEG CMYK", image.convert("CMYK"), "JPEG", {}),
        ("TIFF float", image.convert("F").point(lambda v: v / 255), "TIFF", {}),
        ("PNG 16", Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        if kind.upper() in Image.SAVE and kind != "PSD":
            picture.save(buffer, kind, **more)
            found[name] = buffer.getvalue()
    return found


def read_or_refuse(path: Path) -> torch.Tensor | None:
    """A picture as it should be, or None: nothing else may come of a file."""
    try:
        picture = read_picture(path)
    except UserError:  # one line, whatever it quotes
        return None
    assert picture.ndim == 3
    assert len(picture) in (3, 4)
    assert picture.isfinite().all()
    assert picture.min() >= 0
    assert picture.max() <= 1
    return picture


def test_every_format_that_is_named_is_read_here(tmp_path: Path) -> None:
    for name, data in valid().items():
        (tmp_path / "x").write_bytes(data)  # a file's name says nothing
        picture = read_or_refuse(tmp_path / "x")
        assert picture is not None, name
        assert tuple(picture.shape[1:]) in [(24, 20), (20, 24), (12, 10), (16, 13)], name
    assert {name.split()[0] for name in valid()} >= {"PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"}


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(
    data: st.DataObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MOST_PIXELS", 1 << 16)  # as bounded, and quicker
    name = data.draw(st.sampled_from(sorted(valid())))
    content = bytearray(valid()[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        match data.draw(st.sampled_from(("flip", "flip", "cut", "insert", "remove"))):
            case "flip" if content:
                content[place] = data.draw(st.sampled_from((0, 1, 127, 128, 255)))
            case "cut":
                del content[place:]
            case "insert":
                content[place:place] = data.draw(st.binary(max_size=24))
            case "remove":
                del content[place : place + data.draw(st.integers(1, 24))]
    (tmp_path / "x").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_or_refuse(tmp_path / "x")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_never_half_a_picture(share: float, tmp_path: Path) -> None:
    for name, data in valid().items():
        if name.split()[0] in (
            "TGA",
            "GIF",
            "HEIF",
            "AVIF",
            "JPEG2000",
            "ICO",
            "SGI",
            "QOI",
            "PCX",
        ):
            continue  # what is left of these may be read: they say nothing of their length
        if "moving" in name:
            continue  # what is cut off is its second picture
        (tmp_path / "x").write_bytes(data[: int(len(data) * share)])
        said = refuse(tmp_path / "x")
        assert any(word in said for word in ("cut off", "damaged", "decoded", "not an image")), name


def test_the_true_cause_is_said(tmp_path: Path) -> None:
    data = valid()["JPEG"]
    (tmp_path / "x.jpg").write_bytes(data[:-60])
    assert "is cut off: its end is missing" in refuse(tmp_path / "x.jpg")
    whole = valid()["PNG"]
    (tmp_path / "x.png").write_bytes(whole[:20] + b"zzzz" + whole[24:])
    assert "is damaged, though it begins as a PNG does: copy or download it again" in refuse(
        tmp_path / "x.png"
    )


def test_a_program_is_never_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives EPS to Ghostscript."""
    path = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    assert "is not an image" in refuse(path)


@pytest.mark.parametrize("more", [[(254, 4, 1)], [(50706, 1, 1)]])
def test_a_cameras_raw_file_is_not_taken_for_its_preview(
    more: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    (tmp_path / "x.dng").write_bytes(tiff(16, 16))
    assert load_picture(tmp_path / "x.dng").shape == (3, 16, 16)
    (tmp_path / "x.dng").write_bytes(tiff(16, 16, *more))
    assert "begins with a small preview, as a camera's raw files do" in refuse(tmp_path / "x.dng")


def test_a_heic_picture_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1miaf", b"msf1\0\0\0\0hevc"):
        (tmp_path / "x.jpg").write_bytes(struct.pack(">I4s", 8 + len(brands), b"ftyp") + brands)
        assert "needs the package pillow-heif: pip install 'chainrule[heic]'" in refuse(
            tmp_path / "x.jpg"
        )
    (tmp_path / "x.avif").write_bytes(valid().get("AVIF", b"x"))
    if "AVIF" in valid():
        load_picture(tmp_path / "x.avif")


# --- small real files ---------------------------------------------------------------------------


REAL = {
    "Portrait_6.jpg": (3, 1800, 1200), "hopper.Lab.tif": (3, 128, 128), "hopper_16bit.pgm": (3, 128, 128),
    "hopper_orientation_6.webp": (3, 128, 128), "inp_base.png": (3, 512, 512), "p_trns_single.png": (4, 64, 64),
    "pil_hopper.heif": (3, 128, 128), "pil_sample_cmyk.jpg": (3, 100, 100), "xmp_tags_orientation.png": (3, 268, 326),
}  # fmt: skip


@real
@pytest.mark.parametrize("name", REAL)
def test_real_photos_are_read(name: str) -> None:
    if name.endswith("heif"):
        pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif")
    assert tuple(read_picture(PHOTOS / name).shape) == REAL[name]


@real
def test_one_photo_is_the_same_in_every_format() -> None:
    """LAB, HEIF and a turned WebP of the same portrait."""
    pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif")
    names = ("hopper.Lab.tif", "pil_hopper.heif", "hopper_orientation_6.webp")
    one, *others = (read_picture(PHOTOS / name) for name in names)
    for other in others:
        assert (one - other).abs().mean() < 0.03


@real
def test_a_real_truncated_photo_is_refused() -> None:
    assert "is cut off: its end is missing" in refuse(PHOTOS / "truncated_jpeg.jpg")
