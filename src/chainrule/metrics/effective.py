"""How many independent samples a Markov chain is worth."""

from __future__ import annotations

import torch
from torch import Tensor

from chainrule.errors import UserError


def effective_sample_size(chains: Tensor) -> Tensor:
    """The number of independent samples whose mean is as sure as that of a chain.

    By Geyer's initial monotone sequence (1992): n / (1 + 2 sum of the autocorrelations), these
    summed as long as pairs of neighbours are above zero.

    >>> effective_sample_size(torch.tensor([[0.0], [1.0]] * 50).cumsum(0)).item() < 5
    True

    Args:
        chains: (n, B), n samples of each of B chains.

    Returns:
        (B,), from 1 to n; of a chain that never moves 1.

    Raises:
        UserError: There is no sample.
    """
    if chains.ndim != 2 or not len(chains):
        raise UserError("there are no samples to count", "give a tensor (n, B)", "chains")
    n = len(chains)
    chains = chains.detach().to("cpu", torch.float64)
    centred = chains - chains.mean(dim=0)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * n, dim=0)[:n]
    still = covariance[0] <= 1e-20 * chains.square().sum(dim=0).clamp(min=1e-300)
    correlation = covariance / covariance[0].where(~still, torch.ones_like(covariance[0]))
    pairs = torch.cat([correlation, correlation.new_zeros(n % 2, chains.shape[1])])
    pairs = pairs.unflatten(0, (-1, 2)).sum(dim=1).cummin(dim=0).values.clamp(min=0)
    found = n / (2 * pairs.sum(dim=0) - 1).clamp(min=1)
    return found.where(~still, torch.ones_like(found))
