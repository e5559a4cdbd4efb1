"""Langevin dynamics of the noise: its samples are those of the posterior, which is known in closed form for Gaussians."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import UserError, sample
from chainrule.losses import Call
from chainrule.memory import Plan
from chainrule.methods import Langevin, Plain, Task
from chainrule.metrics import effective_sample_size
from chainrule.models import Codec
from conftest import Gaussian, scaled_linear, tiny_model

SHAPE = (3, 1, 2)
"""Six numbers."""


class Affine(Codec):
    """Images are 0.5 + latents / 50: nothing is clamped."""

    latent_shape = SHAPE
    factor = multiple = 1

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        return 0.5 + latents / 50

    def encode(self, images: Tensor) -> Tensor:
        return (images - 0.5) * 50


MATRIX = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
SEEN = torch.tensor([1.0, -0.5, 2.0, 0.0])


def quadratic(images: Tensor) -> Tensor:
    """|A z - y|^2 / 2 of the latents z: the likelihood of four numbers seen in noise."""
    z = ((images - 0.5) * 50).flatten(1)
    return (z @ MATRIX.T - SEEN).square().sum(dim=1) / 2


def gaussian(chains: int = 64, loss: Any = quadratic) -> Task:
    mean = torch.linspace(-1, 1, 6).reshape(1, *SHAPE)
    denoiser = Gaussian(mean, 0.7, scaled_linear())
    model = replace(tiny_model(), codec=Affine())
    return Task(model, denoiser, tuple(range(chains)), Call(loss))


def posterior(temperature: float, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x_T: the chain is affine, x_0 = a x_T + b, so all is Gaussian."""
    task = gaussian(2)
    drawn = Plain(steps=steps)(replace(task, loss=None))
    ends = drawn.latents.flatten(1)
    noise = drawn.x_T.flatten(1)
    slope = ((ends[0] - ends[1]) / (noise[0] - noise[1])).mean()  # every number's is the same
    offset = ends[0] - slope * noise[0]
    a = (slope * MATRIX).double()
    precision = torch.eye(6, dtype=torch.float64) + a.T @ a / temperature
    covariance = torch.linalg.inv(precision)
    seen = (SEEN - MATRIX @ offset).double()
    return covariance @ a.T @ seen / temperature, covariance


def samples(method: Langevin, task: Task) -> tuple[Tensor, Any]:
    """Every sample after the burn-in, (k, B, 6), and the last state."""
    states = list(method.run(method.prepare(task)))
    first = int(states[-1].burn_in) + 1
    return torch.stack([each.x_T for each in states[first:]]).flatten(2).double(), states[-1]


def hold(found: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Each chain's averages are one draw: their mean over chains is the truth, within its error."""
    chains = found.shape[1]
    firsts = found.mean(dim=0)
    away = found - mean
    seconds = torch.einsum("kbi,kbj->bij", away, away) / len(found)
    for each, truth in ((firsts, mean), (seconds, covariance)):
        error = each.std(dim=0) / math.sqrt(chains)
        assert ((each.mean(dim=0) - truth).abs() < 4 * error + 1e-3).all()
        assert error.max() < 0.1  # or nothing is told


@pytest.mark.parametrize("temperature", [0.5, 5.0])
def test_its_samples_are_the_posteriors(temperature: float) -> None:
    method = Langevin(temperature=temperature, iterations=200, steps=2)
    found, last = samples(method, gaussian())
    mean, covariance = posterior(temperature, steps=2)
    hold(found, mean, covariance)
    assert mean.norm() > 0.5  # and is another than the prior's
    assert 0.45 < last.found["acceptance"].mean() < 0.9


def test_a_large_step_is_corrected() -> None:
    """At a fixed step where many proposals are wrong, the samples are right."""
    method = Langevin(temperature=0.5, iterations=240, burn_in=0, delta=0.4, steps=2)
    found, last = samples(method, gaussian())
    assert last.found["acceptance"].mean() < 0.7
    assert (last.delta == 0.4).all()
    hold(found[60:], *posterior(0.5, steps=2))


def test_without_a_loss_to_speak_of_it_is_the_prior() -> None:
    """Every proposal is taken, and the largest step, a fresh draw, is found."""
    method = Langevin(temperature=1e12, iterations=100, burn_in=0.4, steps=1)
    found, last = samples(method, gaussian())
    hold(found, torch.zeros(6).double(), torch.eye(6).double())
    assert (last.accepted == 1).all()
    assert (last.delta == 2).all()
    assert last.found["effective samples"].mean() > 45  # of 60


def tiny(seeds: tuple[int, ...] = (0, 1, 2)) -> Task:
    model = tiny_model()
    loss = Call(lambda images: (images - 0.6).square().mean(dim=(1, 2, 3)), "distance")
    return Task(model, model.denoiser("a prompt"), seeds, loss)


SHORT = Langevin(iterations=8, steps=3, temperature=1e-3)


def test_a_low_temperature_lowers_the_loss_and_the_best_is_kept() -> None:
    *_, last = SHORT.run(tiny())
    best = SHORT.model_copy(update={"deliver": "best"})
    drawn, found = SHORT.result(tiny(), last), best.result(tiny(), last)
    plain = Plain(steps=3)(tiny()).losses
    assert (drawn.losses.mean() < 0.9 * plain.mean()).all()
    assert (found.losses <= drawn.losses).all()
    assert (found.losses <= last.terms.sum(dim=1).amin(dim=0)).all()
    for result in (drawn, found):
        torch.testing.assert_close(tiny().require_loss()(result.images), result.losses)
        again = sample(tiny().denoiser, result.x_T, 3)
        torch.testing.assert_close(again, result.latents)
        assert result.numbers["acceptance"].shape == (3,)
        assert {"effective samples", "step", "norm"} <= result.numbers.keys()
    assert torch.equal(drawn.x_T, last.x_T)


def test_the_first_sample_is_the_plain_image() -> None:
    first = next(SHORT.run(tiny()))
    torch.testing.assert_close(first.latents, Plain(steps=3)(tiny()).latents)
    assert first.numbers["loss"] == first.numbers["best"]


def test_a_proposal_costs_one_gradient() -> None:
    """Nothing is asked twice: a chain there, its steps again on the way back."""
    task = tiny()
    SHORT(task)
    assert task.model.network.calls == (8 + 1) * 2 * 3


def test_each_seed_is_a_chain_of_its_own() -> None:
    together, alone = SHORT(tiny()), SHORT(tiny((1,)))
    torch.testing.assert_close(together.x_T[1:2], alone.x_T, rtol=1e-4, atol=1e-5)
    apart = SHORT(tiny().under(Plan(batch_size=1)))
    torch.testing.assert_close(together.x_T, apart.x_T, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_is_not_finite_says_whose() -> None:
    loss = Call(lambda images: (images - images.detach()).square().sum(dim=(1, 2, 3)).sqrt())
    with pytest.raises(UserError, match=r"the gradient is nan for seed 0: keep the loss smooth"):
        SHORT(replace(tiny(), loss=loss))


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"burn_in": 1.5}, {"delta": 3.0}, {"deliver": "all"}]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Langevin(**wrong)


# --- how many independent samples a chain is worth ----------------------------------------------


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_the_effective_sample_size_of_an_autoregression(rho: float) -> None:
    """x_k = rho x_{k-1} + noise: n (1 - rho) / (1 + rho), and never more than n."""
    n, chains = 4000, 8
    w = torch.randn(n, chains, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = [w[0]]
    for each in w[1:]:
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * each)
    found = effective_sample_size(torch.stack(x)) / n
    wanted = min((1 - rho) / (1 + rho), 1.0)
    assert abs(found.mean() / wanted - 1) < 0.1


def test_the_effective_sample_size_of_few_and_of_still_chains() -> None:
    assert effective_sample_size(torch.ones(9, 2) * 0.1).tolist() == [1, 1]
    assert effective_sample_size(torch.zeros(1, 2)).tolist() == [1, 1]
    for n in (2, 3, 5):
        found = effective_sample_size(torch.arange(float(n))[:, None])
        assert 1 <= found <= n
    with pytest.raises(UserError, match="no samples"):
        effective_sample_size(torch.zeros(0, 2))
