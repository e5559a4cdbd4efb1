"""Noise-aware guidance is the formula, and costs the generator no backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chainrule import UserError, sample
from chainrule.diffusion.guidance import NoiseAware, NoiseAwareMean
from chainrule.diffusion.solvers import DDPM
from chainrule.models.noise_aware import load_noise_aware
from chainrule.noise import Noise
from conftest import TinyNetwork, conditioned, latents


def energy(x: Tensor, t: float) -> Tensor:
    return (x * x).sum(dim=(1, 2, 3)) * (1 + t / 1000)


def test_it_is_the_formula(network: TinyNetwork) -> None:
    denoiser, x, t = conditioned(network), latents(), 401.0
    alpha, sigma = network.schedule.alpha(t), network.schedule.sigma(t)
    plain, guided = denoiser(x, t), NoiseAware(denoiser, energy, 3.0)(x, t)
    torch.testing.assert_close(guided.eps, plain.eps + 3.0 * sigma * 2 * x * 1.401)
    torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x)


def test_the_mean_form_is_the_formula(network: TinyNetwork) -> None:
    denoiser, x, t, s = conditioned(network), latents(), 401.0, 301.0
    plain = DDPM(Noise((0, 1)).stream("ddpm"))
    guided = NoiseAwareMean(plain, energy, 3.0)
    (moved,) = guided.step(denoiser, guided.init(x), 0, t, s)
    variance = plain.variance(network.schedule, t, s)
    (unmoved,) = plain.step(denoiser, plain.init(x), 0, t, s)
    torch.testing.assert_close(moved, unmoved - 3.0 * variance * 2 * x * 1.401)
    (up,) = guided.step(denoiser, guided.init(x), 0, s, t)
    assert torch.equal(up, plain.step(denoiser, plain.init(x), 0, s, t)[0])


def test_the_generator_is_called_once_and_the_energy_falls(network: TinyNetwork) -> None:
    denoiser, times = conditioned(network), network.schedule.times(8)
    with torch.no_grad():
        plain = sample(denoiser, latents(), times)
        network.calls = 0
        guided = sample(NoiseAware(denoiser, energy, 0.05), latents(), times)
    assert network.calls == 8
    assert (energy(guided, 0.0) < energy(plain, 0.0)).all()


def test_gradients_pass_through_it(network: TinyNetwork) -> None:
    denoiser, t = NoiseAware(conditioned(network), energy, 2.0), 301.0
    x = latents().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: denoiser(value, t).eps, x)


def test_the_bundled_energy_is_low_where_the_class_is() -> None:
    import chainrule
    from chainrule.images import from_pil
    from chainrule.scenes.base import render, sample_scene

    model = chainrule.load()
    shapes = ("heart", "star")
    scenes = {
        shape: [sample_scene(seed, shape=shape, single=True) for seed in range(20)]
        for shape in shapes
    }
    energies = {}
    for shape in shapes:
        with torch.no_grad():
            z = model.encode(from_pil([render(scene) for scene in scenes[shape]]))
        energies[shape] = [load_noise_aware(wanted)(z, 1.0).mean().item() for wanted in shapes]
    assert energies["heart"][0] < 0.5 * energies["heart"][1]
    assert energies["star"][1] < 0.5 * energies["star"][0]
    with pytest.raises(UserError, match="no class 'dog'"):
        load_noise_aware("dog")
