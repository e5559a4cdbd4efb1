"""How beautiful a picture of the world of sprites is, by definition.

    rating = 1 + 3 (harmony + centring + contrast)    each from 0 to 1, so from 1 to 10

    harmony    |mean of exp(2 i hue)|: 1 for one hue, two opposite ones or none, 0 for a right
               angle; over all coloured pixels, ground and things, each weighed by its chroma
    centring   1 - d / 12, d the distance of the thing's centre from the picture's, in pixels
    contrast   the things' mean distance from the ground, as a share of 0.5 (colours in [0, 1])

A pixel's distance from the ground is that of its colour from the ground's colour in its row, which
the ends of the row tell. No guidance ever uses this: it judges what a rater, which has learnt it
from examples, leads to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chainrule.scenes.judge import hue

FARTHEST = 12.0
FULL_CONTRAST = 0.5
NEAR_GROUND = 0.1
"""A pixel that is nearer to the ground's colour than this is ground."""
NEAR_GREY = 0.1
"""A pixel of less chroma than this has no colour."""
EDGE = 2
"""How many pixels at each end of a row tell the ground's colour."""


def find_things(image: Tensor) -> Tensor:
    """How far each pixel is from the ground, (H, W); 0 where it is ground.

    Args:
        image: An image (3, H, W) in [0, 1].
    """
    ends = torch.cat([image[:, :, :EDGE], image[:, :, -EDGE:]], dim=2)
    ground = ends.median(dim=2, keepdim=True).values
    distance = (image - ground).square().mean(dim=0).sqrt()
    return torch.where(distance > NEAR_GROUND, distance, 0.0)


def rate(image: Tensor) -> float:
    """The rating, 1 to 10, of an `image` (3, H, W) in [0, 1]; 1 if there is nothing on its ground.

    Args:
        image: The image.
    """
    image = image.detach().float().cpu()
    distance = find_things(image)
    if not distance.any():
        return 1.0
    share = distance / distance.sum()
    height, width = share.shape
    x = (share.sum(0) * torch.arange(width)).sum() - (width - 1) / 2
    y = (share.sum(1) * torch.arange(height)).sum() - (height - 1) / 2
    centring = (1 - torch.hypot(x, y) / FARTHEST).clamp(min=0)
    contrast = (distance[distance > 0].mean() / FULL_CONTRAST).clamp(max=1)
    return float(1 + 3 * (_find_harmony(image) + centring + contrast))


def _find_harmony(image: Tensor) -> Tensor:
    chroma = image.amax(0) - image.amin(0)
    chroma = torch.where(chroma > NEAR_GREY, chroma, 0.0)
    if not chroma.any():
        return torch.ones(())
    angle = 2 * hue(image.permute(1, 2, 0))
    return torch.hypot((chroma * angle.cos()).sum(), (chroma * angle.sin()).sum()) / chroma.sum()
