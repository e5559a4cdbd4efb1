"""How beautiful a picture of the bundled world is, by definition.

    rating = 1 + 3 (harmony + centring + symmetry)    each from 0 to 1, so from 1 to 10

    harmony    |mean of exp(2 i hue)|: 1 for one hue or two opposite ones, 0 for a right angle
    centring   1 - d / 12, d the distance of the centre of the colour from the picture's, in pixels
    symmetry   1 - |c - c mirrored| / (2 |c|), c the chroma of each pixel, mirrored left and right

The mean and both sums weigh each pixel by its chroma. No guidance ever uses this: it judges what a
rater, which has learnt it from examples, leads to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chainrule.scenes.judge import MIN_CHROMA, hue

FARTHEST = 12.0


def rate(image: Tensor) -> float:
    """The rating, 1 to 10, of an `image` (3, H, W) in [0, 1]; 1 if nothing in it is coloured."""
    image = image.detach().float().cpu()
    chroma = image.amax(0) - image.amin(0)
    weight = torch.where(chroma > MIN_CHROMA, chroma, 0.0)
    if not weight.any():
        return 1.0
    share = weight / weight.sum()
    angle = 2 * hue(image.permute(1, 2, 0))
    harmony = torch.hypot((share * angle.cos()).sum(), (share * angle.sin()).sum())
    height, width = share.shape
    x = (share.sum(0) * torch.arange(width)).sum() - (width - 1) / 2
    y = (share.sum(1) * torch.arange(height)).sum() - (height - 1) / 2
    centring = (1 - torch.hypot(x, y) / FARTHEST).clamp(min=0)
    symmetry = 1 - (share - share.flip(1)).abs().sum() / 2
    return float(1 + 3 * (harmony + centring + symmetry))
