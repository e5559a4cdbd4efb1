"""The Frechet distance between two sets of features (Heusel et al. 2017, eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.metrics.base import check_finite


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), with the means and covariances of two sets.

    Small sets overestimate it: compare only sets of equal size.

    Args:
        features: One set (N, D), N at least 2.
        reference: The other (M, D), M at least 2.

    Raises:
        UserError: A set is too small or not finite, or they have features of two kinds.
    """
    for each in (features, reference):
        check_finite(each, "features", 2)
    if features.shape[1] != reference.shape[1]:
        raise UserError(
            f"one set has {features.shape[1]} features and the other {reference.shape[1]}",
            "compute both with one network",
            "reference",
        )
    if min(len(features), len(reference)) < 2:
        raise UserError("the Frechet distance needs at least two images in each set", "give more")
    (mean, cov), (other_mean, other_cov) = (
        (value.double().mean(dim=0), torch.cov(value.double().T)) for value in (features, reference)
    )
    # the trace of a matrix square root is the sum of the roots of its eigenvalues
    cross = torch.linalg.eigvals(cov @ other_cov).sqrt().real.sum()
    means = (mean - other_mean).square().sum()
    return float(means + cov.trace() + other_cov.trace() - 2 * cross)
