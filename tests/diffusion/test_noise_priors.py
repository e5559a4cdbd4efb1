"""Terms are least for typical noise and pull back to it; projections are nearest points, once and for all."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chainrule.diffusion.noise_priors import (
    NoiseTerm,
    bounds_term,
    moments_term,
    noise_statistics,
    noise_terms,
    norm_term,
    project_on_sphere,
    spectrum_term,
    whiten,
)
from chainrule.noise import Noise

TERMS = get_args(NoiseTerm)
SHUFFLES = Noise((0, 1)).stream("test")
shapes = st.tuples(st.integers(1, 3), st.integers(1, 19), st.integers(1, 19))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term(name: str, x: Tensor) -> Tensor:
    (value,) = noise_terms(x, {name: 1.0}, SHUFFLES, 0)
    return value


def smooth(x: Tensor) -> Tensor:
    """Neighbours that are alike, as numerous and as large as before."""
    blurred = x + 0.7 * x.roll(1, -1)
    blurred = blurred + 0.7 * blurred.roll(1, -2)
    return project_on_sphere(blurred, x.flatten(1).norm(dim=1))


SPOILT = {
    "norm": lambda x: 0.8 * x,
    "moments": lambda x: x + 0.5,
    "spectrum": smooth,
    "bounds": lambda x: x + 0.5,
}
"""What each term is there to find."""


@pytest.mark.parametrize("name", TERMS)
def test_it_finds_what_it_is_there_for(name: str) -> None:
    typical = draw(2, 4, 24, 24)
    usual, spoilt = term(name, typical), term(name, SPOILT[name](typical))
    assert usual.shape == (2,)
    assert (usual >= 0).all()
    assert (spoilt > usual + 30).all()


def test_typical_noise_has_about_half_for_each_number_that_is_looked_at() -> None:
    x = draw(200, 2, 16, 16)
    tiles, bands = 2 * 4, 2 * 9  # of 16 x 16: 4 tiles; frequencies up to 3, 7 and 8
    wanted = {norm_term: 0.5, moments_term: tiles * (0.5 + 0.5), spectrum_term: 0.5 * bands}
    for each, mean in wanted.items():
        values = each(x)
        assert abs(values.mean() - mean) < 4 * values.std() / math.sqrt(len(x)) + 0.02 * mean
    assert (bounds_term(x) == 0).float().mean() > 0.6  # nothing pulls where all is likely
    assert bounds_term(x).mean() < 0.2


@pytest.mark.parametrize("name", TERMS)
def test_its_gradient_pulls_back(name: str) -> None:
    """Descent from what is spoilt reaches what is usual."""
    x = SPOILT[name](draw(2, 4, 24, 24))
    before = term(name, x)
    for _ in range(60):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(term(name, leaf).sum(), leaf)
        x = x - 0.1 * gradient
    after = term(name, x)
    assert (after < before / 5).all()


def test_the_norm_term_is_renos() -> None:
    """|x|^2/2 - (d - 1) log|x|, whose gradient it has, and which it is but for a constant."""
    x = (1.3 * draw(3, 2, 5, 4)).requires_grad_()
    norm, d = x.flatten(1).norm(dim=1), 40
    printed = norm.square() / 2 - (d - 1) * norm.log()
    least = (d - 1) / 2 - (d - 1) * math.log(math.sqrt(d - 1))
    torch.testing.assert_close(norm_term(x), printed - least)
    one, other = (
        torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in (norm_term(x), printed)
    )
    torch.testing.assert_close(one, other)
    assert norm_term(project_on_sphere(x, torch.full((3,), math.sqrt(d - 1)))).abs().max() < 1e-12


def test_the_bounds_are_dnos() -> None:
    """For one image, by the paper's formula written out."""
    x = draw(1, 1, 8, 8) + 0.9
    parts = x.reshape(16, 4)
    m, k = parts.shape
    m1 = parts.mean(dim=0).norm()
    m2 = torch.linalg.eigvalsh(parts.T @ parts / m - torch.eye(4)).abs().max()
    p1 = 2 * math.exp(-m * m1**2 / (2 * k))
    p2 = 2 * math.exp(-m * max(math.sqrt(1 + m2) - 1 - math.sqrt(k / m), 0) ** 2 / 2)
    wanted = -math.log(min(p1, 1)) - math.log(min(p2, 1))
    assert wanted > 0.5
    torch.testing.assert_close(bounds_term(x).item(), wanted)


def test_a_shuffle_finds_what_the_order_hides() -> None:
    """Pairs of opposite numbers have no mean in any sub-vector; of other orders they have one no more than noise."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))[None]
    x = draw(1, 1, 8, 8) + 0.9
    shuffled = bounds_term(x.flatten(1).gather(1, order))
    torch.testing.assert_close(bounds_term(x, [order]), bounds_term(x) + shuffled)


@given(shape=shapes, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_whitening_is_a_projection(shape: tuple[int, int, int], seed: int) -> None:
    """Once is for good; the spectrum is flat; no noise so white is nearer."""
    x = draw(2, *shape, seed=seed)
    white = whiten(x)
    assert white.shape == x.shape
    torch.testing.assert_close(whiten(white), white)
    found = noise_statistics(white)
    for name in ("norm", "flatness"):
        torch.testing.assert_close(found[name], torch.ones(2, dtype=torch.float64))
    assert spectrum_term(white).abs().max() < 1e-9
    other = whiten(x + 0.3 * draw(2, *shape, seed=seed + 100))
    apart = [(each - x).flatten(1).norm(dim=1) for each in (white, other)]
    assert (apart[0] <= apart[1] + 1e-9).all()


def test_whitening_undoes_what_is_smooth_and_leaves_noise_alone() -> None:
    x = draw(2, 4, 64, 64)
    assert ((whiten(x) - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1) < 0.12).all()
    blurred = smooth(x)
    assert (noise_statistics(blurred)["flatness"] < 0.5).all()
    assert (noise_statistics(blurred)["autocorrelation"] > 0.4).all()
    assert (noise_statistics(whiten(blurred))["autocorrelation"] < 0.2).all()


def test_the_sphere_is_a_projection() -> None:
    x, radius = draw(3, 2, 2, 4, 4), torch.full((3, 2), 5.0, dtype=torch.float64)
    on = project_on_sphere(x, radius)
    torch.testing.assert_close(on.flatten(2).norm(dim=2), radius)
    torch.testing.assert_close(project_on_sphere(on, radius), on)


def test_the_statistics_of_noise() -> None:
    found = noise_statistics(draw(20, 4, 64, 64))
    assert (found["norm"] - 1).abs().max() < 0.03
    assert found["flatness"].min() > 0.97
    expected = math.sqrt(2 * math.log(64 * 64) / (4 * 64 * 64))
    assert 0.7 < found["autocorrelation"].mean() / expected < 1.3


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_no_noise_breaks_it(name: str, kind: torch.dtype) -> None:
    for x in (torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 1, 1), draw(2, 3, 5, 7)):
        x = x.to(kind).requires_grad_()
        value = term(name, x)
        assert torch.isfinite(value).all()
        assert torch.isfinite(torch.autograd.grad(value.sum(), x)[0]).all()
    assert all(
        torch.isfinite(each).all() for each in noise_statistics(torch.zeros(2, 1, 8, 8)).values()
    )


def test_an_image_does_not_depend_on_its_batch() -> None:
    x = draw(2, 2, 8, 8) + 0.5
    weights = dict.fromkeys(TERMS, 2.0)
    both = noise_terms(x, weights, SHUFFLES, 3)
    alone = noise_terms(x[1:], weights, SHUFFLES.select([1]), 3)
    assert both.shape == (4, 2)
    torch.testing.assert_close(both[:, 1:], alone)
    assert torch.equal(whiten(x)[1:], whiten(x[1:]))
