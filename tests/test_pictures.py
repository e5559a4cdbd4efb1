"""Photos of any size and mode, and their proportions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chainrule import UserError
from chainrule.pictures import fitted, framed, from_pil, grid, load_picture, to_pil


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


@pytest.mark.parametrize("size", [(64, 64), (400, 300), (37, 111), (3000, 20), (1, 1)])
def test_photos_are_fitted_to_the_model_and_get_their_proportions_back(size: tuple[int, int]) -> None:
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    inside = fitted(picture, 64 * 64, 8)
    assert all(side % 8 == 0 for side in inside.shape[1:])
    assert 0.5 < inside[0].numel() / 64**2 < 2
    height, width = framed(inside[None], size).shape[-2:]
    assert abs(height * size[1] - width * size[0]) <= max(size)  # a pixel more or less
    if size == (64, 64):
        assert torch.equal(inside, picture)


def test_pictures_survive_the_way_to_a_file() -> None:
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    again = from_pil([to_pil(image)])[0]
    assert (again - image).abs().max() <= 0.5 / 255 + 1e-6


def test_a_long_title_of_a_grid_is_wrapped() -> None:
    columns, scores = {"plain": torch.ones(1, 3, 64, 64)}, {"plain": [""]}
    short, long = (grid(columns, [""], scores, title=title) for title in ("heart", "a red shape " * 9))
    assert long.width == short.width
    assert long.height > short.height
