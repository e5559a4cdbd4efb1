"""How much a tensor is like noise: terms that pull back to it, projections on it, its statistics.

With n independent N(0, 1) numbers of mean square u, n u is chi-squared: -log p is, but for a
constant that makes it zero where it is least,

    surprise(u, n) = n/2 (u - 1 - log u)

    norm      surprise of all d numbers as one, with n = d - 1: ReNO (Eyring et al. 2024), whose
              |x|^2/2 - (d - 1) log|x| it is
    moments   n/2 mean^2, and surprise of the variance, of each tile of each channel
    spectrum  surprise of the power in each band of frequencies of each channel (Whittle 1953)
    bounds    DNO (Tang et al. 2024): -log of the bounds on how likely the mean and the covariance
              of sub-vectors are, in order and shuffled

So one weight means the same for each: the sum of it and of the prior's own -log p. Of typical noise
norm is about a half, moments and spectrum a half for each number that they look at, bounds next to
nothing. Moments and power spectra are those of Hwang et al., "Moment- and Power-Spectrum-Based
Gaussianity Regularization", 2025 (2509.07027), who shuffle: here they are of neighbours, as a
network sees them.

The projections are nearest points: of a sphere, and of the product of the spheres of all bands, on
which the spectrum is flat (Hwang & Sung 2026, 2602.08646, bound the bands' 1-norms as well).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.noise import Stream

NoiseTerm = Literal["norm", "moments", "spectrum", "bounds"]
TILE, BAND = 8, 4
"""The side of a tile, in latents; of a band, in frequencies: of both signs, so twice as many."""
SUB_VECTOR, SHUFFLES = 4, 20
"""The numbers of a sub-vector, as in DNO's code; in how many other orders they are looked at."""


def norm_term(x: Tensor) -> Tensor:
    """How unlikely the norm is, (B,).

    Args:
        x: Noise (B, ...).
    """
    flat = x.flatten(1)
    n = max(flat.shape[1] - 1, 1)
    return _surprise(flat.square().sum(dim=1) / n, n)


def moments_term(x: Tensor) -> Tensor:
    """How unlikely mean and variance are, tile by tile, (B,).

    Args:
        x: Noise (B, C, h, w).
    """
    total = x.new_zeros(len(x))
    for rows in x.split(TILE, dim=-2):
        for tile in rows.split(TILE, dim=-1):
            n = tile.shape[-2] * tile.shape[-1]
            mean = tile.mean(dim=(-2, -1), keepdim=True)
            power = (tile - mean).square().sum(dim=(-2, -1)) / max(n - 1, 1)
            terms = n / 2 * mean[..., 0, 0].square()
            total = total + (terms + _surprise(power, n - 1) if n > 1 else terms).sum(dim=1)
    return total


def spectrum_term(x: Tensor) -> Tensor:
    """How unlikely the power is, band by band, (B,).

    Args:
        x: Noise (B, C, h, w).
    """
    power, sizes = _measure_bands(_transform(x))
    return _surprise(power, sizes).sum(dim=(1, 2, 3)).to(x)


def bounds_term(x: Tensor, orders: Sequence[Tensor] = ()) -> Tensor:
    """DNO's bounds, (B,): zero while mean and covariance of sub-vectors are likely enough.

    With m sub-vectors of k numbers, M1 the norm of their mean and M2 the spectral norm of their
    second moments less I,

        p1 = 2 exp(-m M1^2 / 2k)    p2 = 2 exp(-m max(sqrt(1 + M2) - 1 - sqrt(k/m), 0)^2 / 2)

    are bounds where they are below 1. The sum of -log p1 and -log p2, as they are in order, and
    their mean over other orders.

    Args:
        x: Noise (B, ...).
        orders: The other orders, each (B, d), a permutation of the d numbers of each image.
    """
    flat = x.flatten(1)
    found = _unlikely(flat)
    others = [_unlikely(flat.gather(1, order)) for order in orders]
    return found + torch.stack(others).mean(dim=0) if others else found


def _unlikely(flat: Tensor) -> Tensor:
    """-log p1 - log p2 of the sub-vectors of (B, d) in their order, (B,)."""
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))  # singular values need it
    size = min(SUB_VECTOR, flat.shape[1])
    count = flat.shape[1] // size
    parts = flat[:, : count * size].reshape(len(flat), count, size)
    far = count * parts.mean(dim=1).square().sum(dim=1) / (2 * size)
    second = parts.transpose(1, 2) @ parts / count
    away = torch.linalg.matrix_norm(second - torch.eye(size).to(second), ord=2)
    excess = ((1 + away).sqrt() - 1 - math.sqrt(size / count)).clamp(min=0)
    each = torch.stack([far, count * excess.square() / 2])
    return (each - math.log(2)).clamp(min=0).sum(dim=0)


def _shuffled_bounds(x: Tensor, noise: Stream, k: int) -> Tensor:
    size = x[0].numel()
    drawn = [
        [torch.randperm(size, generator=each) for _ in range(SHUFFLES)]
        for each in noise.generators(k)
    ]
    orders = [torch.stack(order).to(x.device) for order in zip(*drawn, strict=True)]
    return bounds_term(x, orders)


_TERMS: Mapping[str, Callable[[Tensor, Stream, int], Tensor]] = {
    "norm": lambda x, noise, k: norm_term(x),
    "moments": lambda x, noise, k: moments_term(x),
    "spectrum": lambda x, noise, k: spectrum_term(x),
    "bounds": _shuffled_bounds,
}


def noise_terms(x: Tensor, weights: Mapping[NoiseTerm, float], noise: Stream, k: int) -> Tensor:
    """Some terms, each times its weight, (n, B).

    Args:
        x: Noise (B, C, h, w).
        weights: By the term's name.
        noise: Where the shuffles come from: a stream with a seed for each image.
        k: Which draw of it.
    """
    return torch.stack([weight * _TERMS[name](x, noise, k) for name, weight in weights.items()])


def project_on_sphere(x: Tensor, radius: Tensor) -> Tensor:
    """The nearest noise of a given norm.

    Args:
        x: Noise (..., C, h, w).
        radius: (...), the norm of each.
    """
    return x * (radius / x.flatten(-3).norm(dim=-1))[..., None, None, None]


def whiten(x: Tensor) -> Tensor:
    """The nearest noise whose power is 1 in each band of frequencies of each channel.

    Args:
        x: Noise (..., C, h, w).
    """
    spectrum = _transform(x)
    power, _ = _measure_bands(spectrum)
    rows, columns = (_bands(side, x.device) for side in x.shape[-2:])
    gain = rows.to(power) @ power.clamp(min=_TINY).rsqrt() @ columns.to(power).T
    return torch.fft.ifft2(spectrum * gain, norm="ortho").real.to(x)


def noise_statistics(x: Tensor) -> dict[str, Tensor]:
    """How like noise some noise is, in numbers.

    Args:
        x: Noise (B, C, h, w).

    Returns:
        By name, (B,): its `norm` over the square root of the number of its numbers, and the
        `flatness` of its spectrum (the geometric mean of the bands' power over the arithmetic one),
        both about 1 for noise; its largest `autocorrelation`, over all shifts, which for noise is
        about sqrt(2 log(h w) / d).
    """
    spectrum = _transform(x)
    power, sizes = _measure_bands(spectrum)
    shares = sizes / (sizes.sum() * x.shape[1])
    logs = (shares * power.clamp(min=_TINY).log()).sum(dim=(1, 2, 3))
    level = (shares * power).sum(dim=(1, 2, 3)).clamp(min=_TINY)
    shifted = torch.fft.ifft2(spectrum.abs().square().sum(dim=1)).real.flatten(1)
    apart = torch.cat([0 * shifted[:, :1], shifted[:, 1:].abs()], dim=1).amax(dim=1)
    return {
        "norm": level.sqrt(),
        "flatness": logs.exp() / level,
        "autocorrelation": apart / shifted[:, 0].clamp(min=_TINY),
    }


def _surprise(u: Tensor, n: float | Tensor) -> Tensor:
    """-log p of the mean square `u` of n numbers N(0, 1), less its least value."""
    return n / 2 * (u - 1 - u.clamp(min=_TINY).log())


_TINY = 1e-30
"""What is divided by, and under a logarithm, is at least this: of constant tensors."""


def _transform(x: Tensor) -> Tensor:
    """The Fourier transform of each channel, of as much power as it; in float32 at least."""
    return torch.fft.fft2(x.to(torch.promote_types(x.dtype, torch.float32)), norm="ortho")


def _measure_bands(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """The mean power in each band, (..., m, n), and how many frequencies each has, (m, n)."""
    rows, columns = (_bands(side, spectrum.device) for side in spectrum.shape[-2:])
    power = spectrum.abs().square()
    rows, columns = rows.to(power), columns.to(power)
    sizes = torch.outer(rows.sum(dim=0), columns.sum(dim=0))
    return rows.T @ power @ columns / sizes, sizes


def _bands(side: int, device: torch.device) -> Tensor:
    """Which frequency along a side is in which band, (side, n): ones and zeros.

    One and its opposite, which are the same for real numbers, are in one band.
    """
    size = torch.fft.fftfreq(side, 1 / side).abs().round().long()
    return functional.one_hot(size // BAND).to(device)
