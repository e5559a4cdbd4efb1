"""An edit of a small copy, put back into the picture."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chainrule.images import fit, on_white, put_back, resize, restore_alpha
from chainrule.metrics import psnr

SIDES = st.integers(4, 40)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(1, 3))
def test_where_nothing_changed_it_is_the_picture_bit_for_bit(
    h: int, w: int, height: int, width: int, count: int
) -> None:
    seen, full = noise(1, 3, h, w), noise(1, 3, height, width, seed=1)
    if (h, w) == (height, width):
        full = seen
    found = put_back(seen.expand(count, -1, -1, -1), seen, full)
    assert torch.equal(found, full.expand(count, -1, -1, -1))


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_outside_of_a_mask_it_is_the_picture_bit_for_bit(
    h: int, w: int, height: int, width: int
) -> None:
    full, mask = noise(1, 3, height, width, seed=1), noise(1, 1, height, width, seed=2) > 0.5
    found = put_back(noise(2, 3, h, w, seed=3), noise(1, 3, h, w), full, mask.float())
    assert torch.equal(found * ~mask, (full * ~mask).expand_as(found))
    assert found.min() >= 0
    assert found.max() <= 1
    soft = put_back(noise(2, 3, h, w, seed=3), noise(1, 3, h, w), full, 0.5 * mask.float())
    hard = (found - full).abs().mean()
    assert (soft - full).abs().mean() <= hard


def test_at_the_pictures_size_it_is_the_edit_itself() -> None:
    edit, full = noise(2, 3, 9, 7), noise(1, 3, 9, 7, seed=1)
    assert torch.equal(put_back(edit, full, full), edit)
    mask = (noise(1, 1, 9, 7, seed=2) > 0.5).float()
    assert torch.equal(put_back(edit, full, full, mask), torch.where(mask.bool(), edit, full))


def scene(
    colour: tuple[float, float, float] | None, side: int = 480, texture: float = 0.06
) -> Tensor:
    """A disc, or none, on a textured ground: the texture is too fine for a copy of 64 pixels."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, side)] * 2, indexing="ij")
    ground = torch.stack([0.8 + 0 * x, 0.8 - 0.2 * y, 0.6 + 0.2 * x])
    fine = texture * torch.sin(380 * x) * torch.sin(300 * y)
    if colour is not None:
        disc = (x - 0.4) ** 2 + (y - 0.45) ** 2 < 0.22**2
        ground = torch.where(disc, torch.tensor(colour)[:, None, None], ground)
    return (ground + fine).clamp(0, 1)[None]


RED, GREEN, DARK = (0.85, 0.15, 0.15), (0.2, 0.7, 0.2), (0.7, 0.2, 0.15)
CHANGES = {
    "another colour": (RED, GREEN),
    "a little darker": (RED, DARK),
    "gone": (RED, None),
    "new": (None, RED),
}


@pytest.mark.parametrize("change", CHANGES)
def test_seen_by_the_model_it_is_the_edit(change: str) -> None:
    before, after = (scene(colour) for colour in CHANGES[change])
    seen, edit = (fit(each[0], 64 * 64, 8)[None] for each in (before, after))
    found = put_back(edit, seen, before)
    assert psnr(resize(found, (64, 64)), edit).item() > 38
    # and it is better than the edit enlarged, and than the picture as it was
    assert psnr(found, after) > psnr(resize(edit, (480, 480)), after) + 1
    assert psnr(found, after) > psnr(before, after) + 5


def test_the_edges_of_what_is_gone_do_not_shine_through() -> None:
    before, after = scene(RED, texture=0), scene(None, texture=0)
    seen, edit = (fit(each[0], 64 * 64, 8)[None] for each in (before, after))
    change = torch.nn.functional.interpolate(
        edit - seen, (480, 480), mode="bicubic", antialias=True
    )
    added = (before + change).clamp(0, 1)
    assert psnr(put_back(edit, seen, before), after) > psnr(added, after) + 3


def test_a_picture_smaller_than_the_models_gets_its_edit_as_well() -> None:
    before, after = (resize(scene(colour, texture=0), (40, 30)) for colour in (RED, GREEN))
    seen, edit = (fit(each[0], 64 * 64, 8)[None] for each in (before, after))
    assert seen.shape[-2:] > before.shape[-2:]
    assert psnr(put_back(edit, seen, before), after).item() > 30


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3))
def test_transparency_is_given_back(seed: int, count: int) -> None:
    picture = (noise(1, 4, 6, 5, seed=seed) * 255).round() / 255
    picture[:, 3, 0, 0], picture[:, 3, 0, 1] = 0, 1
    white = on_white(picture[0])[None]
    same = restore_alpha(white.expand(count, -1, -1, -1), picture)
    assert torch.equal(same, picture.expand(count, -1, -1, -1))
    images = noise(count, 3, 6, 5, seed=seed + 1)
    found = restore_alpha(images, picture)
    assert found.min() >= 0
    assert found.max() <= 1
    alpha = picture[:, 3:]
    shown = torch.stack([on_white(each) for each in found])
    reached = images.clamp(1 - alpha, torch.ones(()))  # what this alpha allows on white
    torch.testing.assert_close(shown, reached.expand_as(shown), atol=1e-5, rtol=0)
