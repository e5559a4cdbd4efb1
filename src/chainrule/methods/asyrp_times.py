"""Where in a chain Asyrp moves h, and where it adds noise: Kwon, Jeong & Uh, 2023, section 4.1.

    [T, t_edit]     LPIPS(x, P_t) = 0.33 at its end: what is predicted still differs from x
    [t_boost, 0]    LPIPS(x, x_t) = 1.2 at its beginning: x_t has as much noise

The distance is LPIPS but for its learnt weights, so that any network can measure it, and t_edit is
not corrected by the distance of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.time_grids import count_steps
from chainrule.losses.features import Features

LIKE, CLEAR = 0.33, 1.2
"""The distances of P_t and x_t from x, at t_edit and t_boost."""
NEVER = -1.0
"""The time from which no noise is added."""


def find_times(
    told: Denoiser,
    decode: Callable[[Tensor], Tensor],
    features: Features,
    pictures: Tensor,
    x: Tensor,
    times: Tensor,
) -> tuple[float, float]:
    """t_edit and t_boost of some pictures.

    Args:
        told: The network.
        decode: From latents to images.
        features: Who sees the distance.
        pictures: (B, 3, H, W).
        x: Their latents (B, C, h, w) at the first time.
        times: Of the whole chain.

    Returns:
        The last time at which P_t is still unlike its picture, or the first of all; and the
        noisiest at which x_t is like it, or `NEVER`.
    """
    predicted, noisy = [], []
    for t, s in pairwise(times.tolist()):
        x0, eps = told(x, t)
        predicted.append(measure_distance(features, decode(x0), pictures))
        noisy.append(measure_distance(features, decode(x), pictures))
        x = told.schedule.mix(x0, eps, s)
    return choose_times(times, predicted, noisy)


def choose_times(
    times: Tensor, predicted: Sequence[float], noisy: Sequence[float]
) -> tuple[float, float]:
    """t_edit and t_boost of distances.

    >>> choose_times(torch.tensor([751.0, 501.0, 251.0, -1.0]), [0.7, 0.4, 0.1], [1.9, 1.1, 0.5])
    (501.0, 501.0)

    Args:
        times: (S + 1,), of the whole chain.
        predicted: The distance of P_t at each of the S steps.
        noisy: Likewise of x_t.

    Returns:
        As `find_times`.
    """
    unlike = [t for t, off in zip(times.tolist(), predicted, strict=False) if off >= LIKE]
    clear = [t for t, off in zip(times.tolist(), noisy, strict=False) if off <= CLEAR]
    return (unlike or [times[0].item()])[-1], (clear or [NEVER])[0]


def find_boost(times: Tensor, share: float) -> float:
    """The time from which the last `share` of a chain is walked; `NEVER` of less than a step.

    >>> find_boost(torch.tensor([751.0, 501.0, 251.0, 1.0, -1.0]), 0.5)
    251.0

    Args:
        times: Of the whole chain.
        share: Of its steps, from 0 to 1.
    """
    steps = len(times) - 1
    count = count_steps(steps, share)
    return times[steps - count].item() if count else NEVER


def measure_distance(features: Features, images: Tensor, pictures: Tensor) -> float:
    """LPIPS (Zhang et al. 2018) without its weights: the layers' mean of |F/|F| - F'/|F'||^2.

    Args:
        features: Who sees both.
        images: (B, 3, H, W).
        pictures: As many.

    Returns:
        The mean over the pictures: 0 of the same, 2 of what has nothing in common, at most 4.
    """
    pairs = zip(features(images), features(pictures), strict=True)
    off = [(normalize(f, dim=1) - normalize(g, dim=1)).square().sum(dim=1).mean() for f, g in pairs]
    return torch.stack(off).mean().item()
