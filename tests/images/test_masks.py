"""Masks from files and from colours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from chainrule import UserError
from chainrule.images import colour_mask, load_mask


def test_a_mask_is_scaled_to_the_images(tmp_path: Path) -> None:
    mask = Image.new("L", (8, 4), 0)
    mask.paste(255, (4, 0, 8, 4))
    mask.save(tmp_path / "mask.png")
    loaded = load_mask(tmp_path / "mask.png", (4, 8), (8, 16))
    assert loaded.shape == (1, 1, 8, 16)
    assert (loaded[..., :8] == 0).all()
    assert (loaded[..., 8:] == 1).all()


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 4), 255).save(tmp_path / "mask.png")
    with pytest.raises(
        UserError, match="is 8x4 pixels and the picture 8x8: they must be the same size"
    ) as error:
        load_mask(tmp_path / "mask.png", (8, 8), (8, 8))
    assert error.value.field == "mask"


@pytest.mark.parametrize("colour", ["red", "#de2626", "white"])
def test_a_colour_is_found_with_a_little_around(colour: str) -> None:
    images = torch.full((1, 3, 32, 32), 0.4)
    rgb = (1.0, 1.0, 1.0) if colour == "white" else (0.87, 0.15, 0.15)
    images[..., 10:20, 10:20] = torch.tensor(rgb)[:, None, None]
    mask = colour_mask(images, colour)
    assert mask.shape == (1, 1, 32, 32)
    assert (mask[..., 9:21, 9:21] == 1).all()
    assert mask.sum() == 144


def test_a_word_that_is_not_a_colour_is_refused() -> None:
    with pytest.raises(UserError, match="'reddish-ish' is not a colour: name one"):
        colour_mask(torch.zeros(1, 3, 8, 8), "reddish-ish")
