from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from chainrule import DDIM, EDICT, Backprop, Checkpoint, UserError, sample
from chainrule.diffusion.denoiser import (
    Conditioned,
    Denoiser,
    Prediction,
    Velocity,
    WrappedDenoiser,
)
from chainrule.diffusion.gradient import Gradient
from chainrule.diffusion.guidance import ClassifierFree, OneStep
from chainrule.losses import Call
from conftest import TinyNetwork, conditioned, latents


@pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
@pytest.mark.parametrize("solver", [DDIM(), EDICT()], ids=str)
def test_an_image_does_not_depend_on_its_batch(solver) -> None:
    network = TinyNetwork()
    times, x_T, text = (
        network.schedule.times(7),
        latents(3),
        conditioned(network, 3).conditioning[0],
    )
    together = sample(Conditioned(network, (text,)), x_T, times, solver=solver)
    alone = sample(Conditioned(network, (text[1:2],)), x_T[1:2], times, solver=solver)
    torch.testing.assert_close(together[1:2], alone)


def test_one_prompt_serves_all_images_and_a_wrong_number_is_refused() -> None:
    network = TinyNetwork()
    times, text = network.schedule.times(3), conditioned(network, 1).conditioning
    assert sample(Conditioned(network, text), latents(3), times).shape == (3, 2, 4, 4)
    with pytest.raises(UserError, match="2 prompts for 3 images"):
        sample(conditioned(network, 2), latents(3), times)


def test_classifier_free_guidance_is_the_formula_in_one_call() -> None:
    network = TinyNetwork()
    positive, negative, x, t = (
        conditioned(network, seed=1),
        conditioned(network, seed=2),
        latents(),
        501.0,
    )
    expected = negative(x, t).eps + 2.5 * (positive(x, t).eps - negative(x, t).eps)
    network.calls = 0
    guided = ClassifierFree(positive, negative.conditioning, 2.5)(x, t)
    torch.testing.assert_close(guided.eps, expected)
    alpha, sigma = network.schedule.alpha(t), network.schedule.sigma(t)
    torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x)
    assert network.calls == 1


def one_step(denoiser: Denoiser, scale: float = 3.0) -> OneStep:
    return OneStep(
        denoiser,
        lambda latent: latent.tanh(),
        Call(lambda images: images.square().mean(dim=(1, 2, 3))),
        scale,
    )


def test_one_step_guidance_is_the_formula() -> None:
    network = TinyNetwork()
    denoiser, x, t = conditioned(network), latents().requires_grad_(), 501.0
    plain = denoiser(x, t)
    (gradient,) = torch.autograd.grad(plain.x0.tanh().square().mean(dim=(1, 2, 3)).sum(), x)
    guided = one_step(denoiser)(x.detach(), t)
    torch.testing.assert_close(guided.eps, plain.eps + 3.0 * network.schedule.sigma(t) * gradient)
    alpha, sigma = network.schedule.alpha(t), network.schedule.sigma(t)
    torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x)


def test_one_step_guidance_of_a_learned_conditioning_from_fixed_noise() -> None:
    network = TinyNetwork(Velocity())
    c = conditioned(network).conditioning[0].requires_grad_()
    times = network.schedule.times(4)

    def found(gradient: Gradient) -> Tensor:
        denoiser = one_step(Conditioned(network, (c,)))
        return torch.autograd.grad(
            sample(denoiser, latents(), times, gradient=gradient).square().sum(), c
        )[0]

    torch.testing.assert_close(found(Checkpoint()), found(Backprop()))
    assert found(Backprop()).abs().sum() > 0


def test_one_step_guidance_starts_where_there_is_no_signal() -> None:
    network = TinyNetwork(Velocity())
    network.schedule = replace(
        network.schedule, alpha_bar=torch.linspace(0.999, 0.0, 1000, dtype=torch.float64)
    )
    assert network.schedule.alpha(999) == 0.0
    denoiser = conditioned(network)
    times = torch.tensor([999.0, 500.0, 10.0, -1.0])
    plain_image, guided = (sample(d, latents(), times) for d in (denoiser, one_step(denoiser)))
    assert torch.isfinite(guided).all()
    assert not torch.allclose(plain_image, guided)


def test_one_step_guidance_works_without_grad_and_lowers_the_loss() -> None:
    network = TinyNetwork()
    denoiser, times = conditioned(network), network.schedule.times(20)
    with torch.no_grad():
        before, after = (
            sample(d, latents(), times).tanh().square().mean()
            for d in (denoiser, one_step(denoiser, 30.0))
        )
    assert not after.requires_grad
    assert after < before


def test_the_gradient_of_a_one_step_guided_chain_is_exact() -> None:
    network = TinyNetwork()
    times, direction, h = network.schedule.times(3), latents(seed=9), 1e-5

    def value(x: torch.Tensor) -> torch.Tensor:
        return sample(one_step(conditioned(network)), x, times).sum()

    x_T = latents().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x_T), x_T)
    numeric = (value(latents() + h * direction) - value(latents() - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), numeric.detach(), rtol=1e-6, atol=1e-8)


def test_ambient_grad_mode_is_obeyed() -> None:
    network = TinyNetwork()
    x_T, times = latents().requires_grad_(), network.schedule.times(3)
    assert sample(conditioned(network), x_T, times).requires_grad
    with torch.no_grad():
        assert not sample(conditioned(network), x_T, times).requires_grad


def test_what_stops_being_finite_is_said() -> None:
    network = TinyNetwork()
    with pytest.raises(UserError, match=r"\(its noise\) are not finite: give finite ones"):
        sample(conditioned(network), latents() * float("inf"), network.schedule.times(3))


@dataclass(frozen=True, eq=False)
class Spoilt(WrappedDenoiser):
    """At one time, the values or the gradients of `denoiser` are not finite."""

    denoiser: Denoiser
    at: float
    backwards: bool = False

    def __call__(self, x: Tensor, t: float) -> Prediction:
        x0, eps = self.denoiser(x, t)
        if t != self.at:
            return Prediction(x0, eps)
        if self.backwards:
            return Prediction(x0, eps + (0.0 * x).abs().sqrt())  # 0, whose slope is not a number
        return Prediction(x0, eps / 0.0)


@pytest.mark.parametrize("gradient", [Backprop(), Checkpoint(), Checkpoint(keep=1)])
def test_the_step_that_spoils_the_latents_is_named(gradient: Gradient) -> None:
    network = TinyNetwork()
    times = network.schedule.times(5)
    denoiser = Spoilt(conditioned(network), at=times[3].item())
    with pytest.raises(UserError, match="no longer finite after step 4 of 5"):
        sample(denoiser, latents().requires_grad_(), times, gradient=gradient)


def test_the_step_that_spoils_the_gradient_is_named() -> None:
    network = TinyNetwork()
    times = network.schedule.times(5)
    denoiser = Spoilt(conditioned(network), at=times[3].item(), backwards=True)
    x_0 = sample(denoiser, latents().requires_grad_(), times, gradient=Checkpoint(keep=1))
    with pytest.raises(UserError, match="stops being finite on its way back through step 4 of 5"):
        x_0.sum().backward()


@pytest.mark.parametrize("times", [[1.0], [1.0, 5.0], [5.0, 5.0]])
def test_times_that_do_not_fall_are_refused(times: list[float]) -> None:
    network = TinyNetwork()
    with pytest.raises(UserError, match="falling from noise to image"):
        sample(conditioned(network), latents(), torch.tensor(times))


def test_progress_is_told() -> None:
    network, told = TinyNetwork(), []
    sample(
        conditioned(network),
        latents(),
        network.schedule.times(3),
        on_step=lambda i, n: told.append((i, n)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
