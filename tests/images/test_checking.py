"""What is given in Python as images or as a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chainrule import UserError
from chainrule.images.checking import require_images, require_mask

GOOD = torch.rand(2, 3, 4, 5)
NO_IMAGES: dict[str, tuple[Any, str]] = {
    "a picture": (Image.new("RGB", (4, 4)), "the photos are a Image: give a tensor"),
    "an array": (np.zeros((1, 3, 4, 4)), "the photos are a ndarray: give a tensor"),
    "nothing": (None, "the photos are a NoneType"),
    "one image": (GOOD[0], r"the photos are of shape \(3, 4, 5\): give a tensor \(B, 3, H, W\)"),
    "colours last": (GOOD.permute(0, 2, 3, 1), "here the colours are last"),
    "one, colours last": (GOOD[0].permute(1, 2, 0), "here the colours are last"),
    "an alpha": (torch.rand(1, 4, 4, 5), r"are of shape \(1, 4, 4, 5\)"),
    "grey": (torch.rand(1, 1, 4, 5), r"are of shape \(1, 1, 4, 5\)"),
    "none": (torch.rand(0, 3, 4, 5), r"are of shape \(0, 3, 4, 5\)"),
    "no pixels": (torch.rand(1, 3, 0, 5), r"are of shape \(1, 3, 0, 5\)"),
    "bytes": ((GOOD * 255).byte(), "the photos are of uint8: .*; divide 0 to 255 by 255"),
    "whole numbers": ((GOOD * 255).long(), "the photos are of int64"),
    "complex": (GOOD.to(torch.complex64), "the photos are of complex64"),
    "of 255": (GOOD * 255, r"the photos have values from 0?\.?\d+.* to 25\d"),
    "of -1 to 1": (GOOD * 2 - 1, "the photos have values from -"),
    "not a number": (GOOD.masked_fill(GOOD > 0.5, torch.nan), "have values from nan to nan"),
    "infinite": (GOOD.masked_fill(GOOD > 0.5, torch.inf), "to inf"),
}


@pytest.mark.parametrize("what", NO_IMAGES)
def test_what_are_no_images_is_said(what: str) -> None:
    value, message = NO_IMAGES[what]
    with pytest.raises(UserError, match=message) as caught:
        require_images(value)
    assert caught.value.field == "photo"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_of_any_precision_are_taken(kind: torch.dtype) -> None:
    require_images(GOOD.to(kind))
    require_images(GOOD.to(kind).requires_grad_())
    require_images((GOOD + 1e-4).to(kind))  # rounding


NO_MASKS: dict[str, tuple[Any, str]] = {
    "a picture": (Image.new("L", (4, 4)), r"the mask is a Image: make it \(2, 1, 4, 5\)"),
    "colours": (GOOD, r"the mask is \(2, 3, 4, 5\): make it"),
    "flat": (torch.ones(4, 5), r"the mask is \(4, 5\): make it"),
    "bytes": (torch.full((2, 1, 4, 5), 255, dtype=torch.uint8), "the mask is of uint8, from 255 to 255"),
    "of 255": (torch.full((2, 1, 4, 5), 255.0), "the mask is of float32, from 255 to 255"),
    "negative": (torch.full((2, 1, 4, 5), -1.0), "from -1 to -1"),
    "not a number": (torch.full((2, 1, 4, 5), torch.nan), "from nan to nan"),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_MASKS)
def test_what_is_no_mask_is_said(what: str) -> None:
    value, message = NO_MASKS[what]
    with pytest.raises(UserError, match=message) as caught:
        require_mask(value, [(2, 1, 4, 5)])
    assert caught.value.field == "mask"


@pytest.mark.parametrize("kind", [torch.bool, torch.float16, torch.float32, torch.float64])
def test_masks_of_these_kinds_are_taken(kind: torch.dtype) -> None:
    require_mask((torch.rand(2, 1, 4, 5) > 0.5).to(kind), [(1, 1, 4, 5), (2, 1, 4, 5)])
