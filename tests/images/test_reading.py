"""Photos of any size and mode, in and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chainrule import UserError
from chainrule.images import from_pil, load_picture, to_pil


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


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_picture(tmp_path / "clear.png") == 1).all()


def test_a_missing_picture_and_a_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_picture(tmp_path / "none.png")
    with pytest.raises(UserError, match="is not an image"):
        load_picture(__file__)


def test_pictures_survive_the_way_to_a_file() -> None:
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    again = from_pil([to_pil(image)])[0]
    assert (again - image).abs().max() <= 0.5 / 255 + 1e-6
