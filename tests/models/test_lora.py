"""A LoRA on the cross-attention: its start, its gradient, and what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

import chainrule
from chainrule import Checkpoint, UserError, sample
from chainrule.models import Model
from chainrule.models.lora import add_lora, remove_lora, reset_lora, save_lora
from conftest import tiny_model
from tiny import family, save_family


def draw(model: Model) -> Tensor:
    denoiser, times = model.denoiser("a red square", guidance_scale=1.0), model.schedule.times(2)
    return model.decode(sample(denoiser, model.noise([0]), times, gradient=Checkpoint()))


KINDS = ["Stable Diffusion 1.x", "Stable Diffusion XL", "Stable Diffusion 3", "Flux.1 dev"]


@pytest.mark.parametrize("name", KINDS)
def test_a_new_one_changes_nothing_and_has_gradients(name: str) -> None:
    model = chainrule.load(family(name), size=(16, 16))
    with torch.no_grad():
        before = draw(model)
    weights = add_lora(model, 2)
    images = draw(model)
    torch.testing.assert_close(images.detach(), before)
    found = torch.autograd.grad(images.square().sum(), list(weights.values()))
    # those of A are zero while B is
    assert sum(bool(gradient.any()) for gradient in found) >= len(found) / 4
    own = {id(weight) for weight in weights.values()}
    others = [weight for weight in model.network.weights if id(weight) not in own]
    assert not any(weight.requires_grad for weight in others)
    assert add_lora(model, 2).keys() == weights.keys()  # the same, not another


def test_its_gradient_is_that_of_finite_differences() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x").to(torch.float64))
    weights = add_lora(model, 2)
    x_T, times = model.noise([0]).double(), model.schedule.times(3)
    directions = {}
    with torch.no_grad():
        for i, (name, weight) in enumerate(weights.items()):
            generator = torch.Generator().manual_seed(i)
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            directions[name] = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)

    def loss(shift: float) -> Tensor:
        with torch.no_grad():
            for name, weight in weights.items():
                weight += shift * directions[name]
        denoiser = model.denoiser("a red square", guidance_scale=1.0)
        return sample(denoiser, x_T, times, gradient=Checkpoint()).square().sum()

    found = torch.autograd.grad(loss(0.0), list(weights.values()))
    h = 1e-5
    with torch.no_grad():
        expected = (loss(h) - loss(-2 * h)) / (2 * h)
    pairs = zip(weights, found, strict=True)
    total = sum((gradient * directions[name]).sum() for name, gradient in pairs)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-8)


def test_it_starts_the_same_whatever_was_drawn_before() -> None:
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        values.append(add_lora(chainrule.load(family("Stable Diffusion 1.x")), 2))
    torch.testing.assert_close(*values, rtol=0, atol=0)


def test_in_a_network_in_half_precision_it_is_in_float32() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x").to(torch.bfloat16))
    weights = add_lora(model, 2)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    found = torch.autograd.grad(draw(model).sum(), list(weights.values()))
    assert any(gradient.any() for gradient in found)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_saved_is_what_it_learnt(name: str, tmp_path: Path) -> None:
    """Also in a checkpoint that has never had one."""
    folder = save_family(name, tmp_path / "model")
    size = (16, 16)
    model = chainrule.load(folder, size=size)
    with torch.no_grad():
        plain = draw(model)
        for weight in add_lora(model, 2).values():
            weight += 0.3
        changed = draw(model)
        path = tmp_path / "learnt.safetensors"
        save_lora(path, model)
        assert [file.name for file in tmp_path.glob("*.safetensors")] == [path.name]
        again = draw(chainrule.load(folder, size=size, loras=[path]))
        reset_lora(add_lora(model, 2))
        assert (changed - plain).abs().max() > 1e-4
        torch.testing.assert_close(again, changed)
        torch.testing.assert_close(draw(model), plain)


@pytest.mark.parametrize("name", KINDS)
def test_without_it_the_network_is_as_it_was(name: str) -> None:
    model = chainrule.load(family(name), size=(16, 16))
    network = model.network.module
    weights = {name: (id(value), value.clone()) for name, value in network.named_parameters()}
    with torch.no_grad():
        before = draw(model)
        for weight in add_lora(model, 2).values():
            weight += 0.3
        assert not torch.equal(draw(model), before)
        remove_lora(model)
        assert torch.equal(draw(model), before)
    found = dict(network.named_parameters())
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], value) for name, (_, value) in weights.items())
    assert all(id(found[name]) == identity for name, (identity, _) in weights.items())
    remove_lora(model)  # there is none to remove


def test_one_that_is_there_is_not_switched_off() -> None:
    pipeline = family("Stable Diffusion 1.x")
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["attn2.to_q"]), "own")
    with pytest.raises(UserError, match="has a LoRA already"):
        add_lora(chainrule.load(pipeline), 2)


def test_without_attention_there_is_nothing_to_tune() -> None:
    with pytest.raises(UserError, match="has no attention to its prompt that takes a LoRA"):
        add_lora(tiny_model(), 2)
