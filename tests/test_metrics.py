from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from chainrule import UserError
from chainrule.metrics import bootstrap, frechet_distance, psnr, wilson


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    a = (a - a.mean(0)) @ torch.linalg.inv(
        torch.linalg.cholesky(torch.cov(a.T))
    ).T  # exactly mean 0, covariance I
    scale, shift = (
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        torch.tensor([1.0, 0.0, -2.0]),
    )
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    expected = 5.0 + ((scale - 1) ** 2).sum().item()
    assert frechet_distance(a * scale + shift, a) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match="at least two images"):
        frechet_distance(a[:1], a)


def test_wilson_covers_what_it_promises() -> None:
    rng, p, n = np.random.default_rng(0), 0.9, 40
    intervals = [wilson(int(k), n) for k in rng.binomial(n, p, size=2000)]
    covered = np.mean([interval.low <= p <= interval.high for interval in intervals])
    assert 0.92 < covered < 0.98
    assert wilson(0, 10).low == 0.0
    for n in range(1, 60):
        for k in range(n + 1):
            value, low, high = wilson(k, n)
            assert low <= value <= high
        assert wilson(0, n).low == 0.0
        assert wilson(n, n).high == 1.0
    assert wilson(10, 10).high == pytest.approx(1.0)


def test_bootstrap_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    interval = bootstrap(values.tolist())
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05)


GOOD = torch.rand(2, 3, 4, 4)
FEATURES = torch.rand(5, 6)
WRONG = {
    "no tensor": (lambda value: value.tolist(), r"are not of type list: give a tensor"),
    "one image": (lambda value: value[0], r"cannot be measured: give \((B, C, H, W|N, D)\)"),
    "nothing": (lambda value: value[:0], r"cannot be measured"),
    "whole numbers": (lambda value: (255 * value).to(torch.uint8), r"are floats, not .*: divide by"),
    "nan": (lambda value: value * torch.nan, r"are not finite everywhere"),
    "infinity": (lambda value: value / 0, r"are not finite everywhere"),
    "another size": (lambda value: value[..., :-1], r"cannot be compared|features and the other"),
}  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize(("metric", "good"), [(psnr, GOOD), (frechet_distance, FEATURES)])
def test_what_cannot_be_measured_is_said(metric, good, case: str, first: bool) -> None:
    change, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        metric(change(good), good) if first else metric(good, change(good))


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "at least one value"), ([[1.0]], "at least one"), ([1.0, math.nan], "is not finite"), ([math.inf], "not finite")],
)  # fmt: skip
def test_no_interval_of_what_is_no_sample(values, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bootstrap(values)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (5, 4), (-1, 4)])
def test_no_proportion_of_what_cannot_be(successes: int, trials: int) -> None:
    with pytest.raises(UserError, match=r"at least one trial|trials cannot have succeeded"):
        wilson(successes, trials)
