"""A LoRA tuned through the whole chain: its start, its gradient, what it changes."""

from __future__ import annotations

import sys

import pytest
import torch

import chainrule
from chainrule import Checkpoint, UserError, sample
from chainrule.losses import load_backbone
from chainrule.methods import StyleTask, Stylization, stylize
from chainrule.methods.stylize import adapted, draw, iterations, start
from chainrule.optimise import Adam
from tiny import family

QUICK = Stylization(rank=2, epochs=2, batch=3, steps=2, optimiser=Adam(rate=0.01))


def studio(model: chainrule.Model) -> StyleTask:
    features = load_backbone()
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    return StyleTask(model, ("a red square", "a blue circle"), (0, 1), picture, features, features)


@pytest.mark.parametrize("name", ["Stable Diffusion 1.x", "Stable Diffusion XL", "Stable Diffusion 3", "Flux.1 dev"])
def test_a_new_adapter_changes_nothing_and_has_gradients(name: str) -> None:
    model = chainrule.load(family(name))
    samples = [("a red square", 0)]
    with torch.no_grad():
        before = draw(model, QUICK, samples)
    weights = adapted(model, 2)
    images = draw(model, QUICK, samples)
    torch.testing.assert_close(images.detach(), before)
    found = torch.autograd.grad(images.square().sum(), list(weights.values()))
    assert sum(bool(gradient.any()) for gradient in found) >= len(found) / 4  # those of A are zero while B is
    assert {
        value.requires_grad for value in model.network.weights if all(value is not w for w in weights.values())
    } == {False}
    assert adapted(model, 2).keys() == weights.keys()  # the same, not another


def test_its_gradient_is_that_of_finite_differences() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x").to(torch.float64))
    weights = adapted(model, 2)
    x_T, times = model.noise([0]).double(), model.schedule.times(3)
    directions = {}
    with torch.no_grad():
        for i, (name, weight) in enumerate(weights.items()):
            generator = torch.Generator().manual_seed(i)
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            directions[name] = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)

    def loss(shift: float) -> torch.Tensor:
        with torch.no_grad():
            for name, weight in weights.items():
                weight += shift * directions[name]
        denoiser = model.denoiser("a red square", guidance_scale=1.0)
        return sample(denoiser, x_T, times, gradient=Checkpoint()).square().sum()

    found = torch.autograd.grad(loss(0.0), list(weights.values()))
    h = 1e-5
    with torch.no_grad():
        expected = (loss(h) - loss(-2 * h)) / (2 * h)
    total = sum((gradient * directions[name]).sum() for name, gradient in zip(weights, found, strict=True))
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-8)


def test_an_epoch_draws_every_prompt_with_every_seed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, drawn = chainrule.load(family("Stable Diffusion 1.x")), []

    def noted(model, settings, samples):
        drawn.append(samples)
        return draw(model, settings, samples)

    monkeypatch.setattr(sys.modules["chainrule.methods.stylize"], "draw", noted)
    work = studio(model)
    assert len(list(stylize(work, QUICK))) == iterations(work, QUICK) == 4
    first, second = ([pair for batch in part for pair in batch] for part in (drawn[2:4], drawn[4:6]))
    assert sorted(first) == sorted(second) == sorted(work.samples)
    assert first != second


def test_the_loss_falls_and_the_network_has_changed() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x"))
    work, settings = studio(model), QUICK.model_copy(update={"epochs": 12, "batch": 4, "content": 0.0})
    with torch.no_grad():
        before = draw(model, settings, work.samples)
    states = list(stylize(work, settings))
    assert states[-1].losses[-1, 0] < states[0].losses[0, 0]
    with torch.no_grad():
        assert not torch.allclose(draw(model, settings, work.samples), before)


def test_it_starts_the_same_whatever_was_drawn_before() -> None:
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        values.append(start(studio(chainrule.load(family("Stable Diffusion 1.x"))), QUICK).values)
    torch.testing.assert_close(*values, rtol=0, atol=0)


def test_a_network_in_half_precision_has_an_adapter_in_float32() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x").to(torch.bfloat16))
    weights = adapted(model, 2)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    images = draw(model, QUICK, [("a red square", 0)])
    assert any(gradient.any() for gradient in torch.autograd.grad(images.sum(), list(weights.values())))


def test_a_lora_that_is_there_is_not_switched_off() -> None:
    from peft import LoraConfig

    pipeline = family("Stable Diffusion 1.x")
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["attn2.to_q"]), "own")
    with pytest.raises(UserError, match="has a LoRA already"):
        adapted(chainrule.load(pipeline), 2)


def test_without_attention_there_is_nothing_to_tune() -> None:
    from conftest import tiny_model

    with pytest.raises(UserError, match="has no attention to its prompt that takes a LoRA"):
        adapted(tiny_model(), 2)
