"""Photos at the size of a model, and their proportions."""

from __future__ import annotations

import pytest
import torch

from chainrule.images import fit, resize, resize_like, restore_proportions


@pytest.mark.parametrize("size", [(64, 64), (400, 300), (37, 111), (3000, 20), (1, 1)])
def test_photos_are_fitted_to_the_model_and_get_their_proportions_back(
    size: tuple[int, int],
) -> None:
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    inside = fit(picture, 64 * 64, 8)
    assert all(side % 8 == 0 for side in inside.shape[1:])
    assert 0.5 < inside[0].numel() / 64**2 < 2
    height, width = restore_proportions(inside[None], size).shape[-2:]
    assert abs(height * size[1] - width * size[0]) <= max(size)  # a pixel more or less
    if size == (64, 64):
        assert torch.equal(inside, picture)


def test_images_keep_their_range_when_they_are_resized() -> None:
    images = (torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    larger = resize(images, (30, 20))
    assert larger.shape == (2, 3, 30, 20)
    assert larger.min() >= 0
    assert larger.max() <= 1
    assert resize(images, (9, 7)) is images


def test_a_picture_takes_size_and_dtype_of_images() -> None:
    images, picture = torch.rand(4, 3, 8, 6, dtype=torch.float64), torch.rand(1, 1, 16, 12)
    like = resize_like(picture, images)
    assert like.shape == (1, 1, 8, 6)
    assert like.dtype == torch.float64
    assert torch.equal(resize_like(picture, picture), picture)
