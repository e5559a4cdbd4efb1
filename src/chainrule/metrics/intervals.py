"""95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from chainrule.errors import UserError

Z = 1.959964
"""The 97.5 % quantile of the standard normal distribution."""


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(successes: int, trials: int) -> Interval:
    """A proportion, by Wilson's score interval (1927).

    >>> str(wilson(29, 32))
    '0.906 [0.758, 0.968]'

    Args:
        successes: How many trials succeeded.
        trials: How many there were, at least 1.

    Raises:
        UserError: There was no trial, or more successes than trials.
    """
    if trials < 1:
        raise UserError("a proportion needs at least one trial", "count some", "trials")
    if not 0 <= successes <= trials:
        raise UserError(
            f"{successes} of {trials} trials cannot have succeeded", "count again", "successes"
        )
    p, n = successes / trials, trials
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    # rounding must not leave the value outside its own interval: 0 of 3
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def bootstrap(
    values: Sequence[float],
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of some values, by the percentile bootstrap.

    Args:
        values: The sample.
        statistic: From an array of values to a number.
        draws: How many samples to draw with replacement.
        seed: The seed of these draws.

    Raises:
        UserError: There are no values, or one is not finite.
    """
    array, rng = np.asarray(values, dtype=float), np.random.default_rng(seed)
    if array.ndim != 1 or not len(array):
        raise UserError("an interval needs at least one value", "give a list of numbers", "values")
    if not np.isfinite(array).all():
        raise UserError("a value is not finite", "leave it out, and say so", "values")
    samples = [statistic(array[rng.integers(len(array), size=len(array))]) for _ in range(draws)]
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(float(statistic(array)), float(low), float(high))
