"""Photos of any size and mode, in and out."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from chainrule import UserError
from chainrule.images import from_pil, load_picture, on_white, read_picture, to_pil


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4), "blue")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the top left corner belongs to the top right
    image.save(tmp_path / "turned.png", exif=exif)
    picture = load_picture(tmp_path / "turned.png")
    assert picture.shape == (3, 6, 4)
    assert picture[:, 0, -1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_is_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"grey.{'tiff' if mode == 'CMYK' else 'png'}"
    grey = np.zeros((7, 5), dtype=np.uint8)
    grey[:, 1:] = 255
    deep = Image.fromarray(grey.astype(np.uint16) * 128)  # half grey, in 16 bits
    (deep if mode == "I;16" else Image.fromarray(grey).convert(mode)).save(path)
    picture = load_picture(path)
    assert picture.shape == (3, 7, 5)
    assert (picture[:, :, 0] == 0).all()
    assert (picture[:, :, 1:] - (0.5 if mode == "I;16" else 1.0)).abs().max() < 0.01


def test_what_is_transparent_is_white_and_said(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    with pytest.warns(UserWarning, match="clear.png is transparent in parts, which are taken for"):
        assert (load_picture(tmp_path / "clear.png") == 1).all()
    half = read_picture(Image.new("RGBA", (2, 2), (255, 0, 0, 51)))
    assert half[:, 0, 0].tolist() == pytest.approx([1, 0, 0, 0.2])
    assert on_white(half)[:, 0, 0].tolist() == pytest.approx([1, 0.8, 0.8])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa", "P", "L", "I;16", "1", "RGB"])
def test_transparency_of_every_kind_is_kept(mode: str) -> None:
    alpha = Image.new("L", (4, 2), 255)
    alpha.putpixel((1, 0), 0)
    picture = Image.new("RGBA", (4, 2), "white")
    picture.putpixel((1, 0), (0, 0, 0, 255))
    if mode in ("P", "L", "RGB", "1", "I;16"):  # one colour stands for nothing
        picture = picture.convert("RGB").convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
        picture.info["transparency"] = picture.getpixel((1, 0))
    else:
        picture.putalpha(alpha)
        picture = picture.convert({"PA": "RGBA", "La": "LA"}.get(mode, mode)).convert(mode)
    found = read_picture(picture)
    assert found.shape == (4, 2, 4)
    assert torch.equal(found[3] == 0, torch.tensor([[False, True, False, False], [False] * 4]))
    assert (on_white(found) == 1).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La"])
def test_an_alpha_that_hides_nothing_is_none(mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opaque = Image.new({"RGBa": "RGBA", "La": "LA"}.get(mode, mode), (3, 2), "white")
        assert load_picture(opaque.convert(mode)).shape == (3, 2, 3)


LEVELS = {
    "I;16": (np.uint16, 65535),
    "I": (np.int32, 65535),
    "F": (np.float32, 1.0),
}


@pytest.mark.parametrize("mode", LEVELS)
def test_deep_greys_are_read_right_or_refused(mode: str, tmp_path: Path) -> None:
    kind, white = LEVELS[mode]
    grey = np.linspace(0, white, 20).astype(kind).reshape(4, 5)
    picture = Image.fromarray(grey)
    assert picture.mode == mode
    picture.save(tmp_path / "x.tif")
    found = load_picture(tmp_path / "x.tif")
    expected = torch.from_numpy(grey.astype(np.float64) / white).expand(3, 4, 5)
    torch.testing.assert_close(found.double(), expected, atol=0.5 / 255 + 1e-6, rtol=0)
    if mode == "I;16":
        return
    for wrong in (
        -1,
        70_000,
        3e9 if mode == "F" else 2**31 - 1,
        *([np.nan] if mode == "F" else []),
    ):
        grey[0, 0] = wrong
        Image.fromarray(grey).save(tmp_path / "x.tif")
        with pytest.raises(UserError, match=r"so that its white is unknown: scale them to \[0, "):
            load_picture(tmp_path / "x.tif")


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "CMYK", "LAB"])
def test_other_colours_become_rgb(mode: str) -> None:
    red = Image.new("RGB", (3, 2), (200, 40, 30))
    if mode == "LAB":
        to = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        other = ImageCms.applyTransform(red, to)
    else:
        other = red.convert(mode)
    torch.testing.assert_close(load_picture(other), load_picture(red), atol=3 / 255, rtol=0)


TURNS = {
    1: lambda p: p,
    2: lambda p: p.flip(2),
    3: lambda p: p.flip(1, 2),
    4: lambda p: p.flip(1),
    5: lambda p: p.transpose(1, 2),
    6: lambda p: p.transpose(1, 2).flip(2),
    7: lambda p: p.transpose(1, 2).flip(1, 2),
    8: lambda p: p.transpose(1, 2).flip(1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("turn", TURNS)
def test_every_turn_of_a_camera_is_undone_in_every_format(
    kind: str, turn: int, tmp_path: Path
) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif").register_heif_opener()
    if kind not in Image.SAVE:
        Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    corners = Image.new("RGB", (32, 48), "white")
    corners.paste("red", (0, 0, 16, 16))
    corners.paste("blue", (16, 0, 32, 16))
    expected = TURNS[turn](load_picture(corners))
    exif = Image.Exif()
    exif[0x0112] = turn
    if kind == "HEIF":
        corners.info["exif"] = exif.tobytes()  # it becomes the container's own rotation
        corners.save(tmp_path / "x", kind, quality=95)
    else:
        corners.save(tmp_path / "x", kind, exif=exif, quality=95)
    found = load_picture(tmp_path / "x")
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.03


def make_profile(primaries: list[tuple[float, float, float]], gamma: float = 2.2) -> bytes:
    """An ICC profile (version 2) of a screen: the XYZ of its red, green and blue under D50."""
    white = (0.9642, 1.0, 0.8249)
    fixed = lambda values: b"".join(struct.pack(">i", round(v * 65536)) for v in values)  # noqa: E731
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = b"wide\0"
    tags = [
        (b"desc", b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(79)),
        (b"wtpt", b"XYZ " + bytes(4) + fixed(white)),
        *((name, b"XYZ " + bytes(4) + fixed(v)) for name, v in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)),
        *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")),
    ]  # fmt: skip
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for name, body in tags:
        table += struct.pack(">4sII", name, start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(
        ">I4sI4s4s4s12x4s", 128 + len(body), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    return head.ljust(68, b"\0") + fixed(white) + bytes(48) + body


P3 = [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)]
"""Display P3's red, green and blue, adapted to D50."""
SRGB = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]


def srgb_of_p3(rgb: tuple[int, int, int], gamma: float = 2.2) -> list[float]:
    linear = np.linalg.inv(np.array(SRGB).T) @ np.array(P3).T @ (np.array(rgb) / 255) ** gamma
    linear = linear.clip(0, 1)
    return np.where(
        linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear
    ).tolist()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("rgb", [(200, 100, 90), (60, 170, 80), (255, 255, 255), (90, 90, 90)])
def test_wide_colours_become_those_of_srgb(
    kind: str, rgb: tuple[int, int, int], tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8), rgb).save(
        tmp_path / "x", kind, icc_profile=make_profile(P3), quality=100
    )
    found = load_picture(tmp_path / "x")[:, 4, 4].tolist()
    assert found == pytest.approx(srgb_of_p3(rgb), abs=0.02)
    if len(set(rgb)) == 3:  # it is another colour than its numbers say
        assert found != pytest.approx([level / 255 for level in rgb], abs=0.02)


def test_with_the_profile_of_srgb_no_bit_changes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "x.png", icc_profile=profile)
    assert torch.equal(load_picture(tmp_path / "x.png"), load_picture(image))
    image.convert("RGBA").save(tmp_path / "y.png", icc_profile=profile)
    assert torch.equal(load_picture(tmp_path / "y.png"), load_picture(image))
    image.convert("L").save(tmp_path / "z.png", icc_profile=profile)  # of RGB, as some write it
    assert torch.equal(load_picture(tmp_path / "z.png"), load_picture(image.convert("L")))


@pytest.mark.parametrize("profile", [b"no profile", make_profile(P3)[:200]])
def test_a_damaged_profile_is_said_and_left_out(profile: bytes, tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), (200, 100, 90))
    image.save(tmp_path / "x.png", icc_profile=profile)
    with pytest.warns(UserWarning, match="its colour profile cannot be used"):
        found = load_picture(tmp_path / "x.png")
    assert torch.equal(found, load_picture(image))


def test_of_several_pictures_the_first_is_taken_and_said(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        frames[0].save(tmp_path / "x", kind, save_all=True, append_images=frames[1:], lossless=True)
        with pytest.warns(UserWarning, match="holds several pictures: the first is taken"):
            found = load_picture(tmp_path / "x")
        assert found[:, 0, 0].tolist() == [1, 0, 0], kind


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_a_picture_may_be_small(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "x.png")
    assert load_picture(tmp_path / "x.png").shape == (3, size[1], size[0])


@pytest.mark.parametrize("size", [(0, 0), (0, 4), (4, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"this picture has no pixels"):
        load_picture(Image.new("RGB", size))


def test_pictures_of_pillow_are_taken_as_files_are(tmp_path: Path) -> None:
    image = Image.effect_noise((8, 6), 90).convert("RGB")
    image.save(tmp_path / "x.png")
    assert torch.equal(load_picture(image), load_picture(tmp_path / "x.png"))
    assert torch.equal(load_picture(str(tmp_path / "x.png")), load_picture(image))
    for wrong in (3, None, np.zeros((4, 4, 3))):
        with pytest.raises(UserError, match="is not a picture: name a file, or give one of Pillow"):
            load_picture(wrong)


def test_a_missing_picture_and_a_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_picture(tmp_path / "none.png")
    with pytest.raises(UserError, match="is not an image"):
        load_picture(__file__)


def test_pictures_survive_the_way_to_a_file() -> None:
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    again = from_pil([to_pil(image)])[0]
    assert (again - image).abs().max() <= 0.5 / 255 + 1e-6
