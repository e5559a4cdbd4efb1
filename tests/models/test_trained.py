"""What of a model is trained, and that it is afterwards as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import chainrule
from chainrule import UserError
from chainrule.models import Model, trained
from chainrule.models.trained import Part
from tiny import family, load_once

NAMES = ["Stable Diffusion 1.x", "Stable Diffusion XL", "Stable Diffusion 3"]
PARTS = {
    "lora": Part(rank=2),
    "lora on all attention": Part(rank=2, layers="attention"),
    "weights": Part(),
    "weights and text": Part(text=True),
}
over_parts = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)


def draw(model: Model, *, text: str = "a red circle") -> Tensor:
    denoiser = model.denoiser(text, guidance_scale=1.0)
    return denoiser(model.noise([0, 1]), 500.0).x0


def weights_of(model: Model) -> dict[str, Tensor]:
    return {
        f"{i} {name}": weight
        for i, network in enumerate(model.networks)
        for name, weight in network.named_parameters()
    }


@over_parts
@pytest.mark.parametrize("name", NAMES)
def test_it_changes_nothing_at_first_and_leaves_nothing_behind(name: str, part: Part) -> None:
    model = load_once(name)
    before, objects = draw(model), weights_of(model)
    values = {key: weight.clone() for key, weight in objects.items()}
    with trained.train(model, part) as weights:
        torch.testing.assert_close(draw(model), before)
        assert all(
            weight.requires_grad and weight.dtype == torch.float32 for weight in weights.values()
        )
        with torch.no_grad():
            for weight in weights.values():
                weight += 0.05 * torch.randn(weight.shape)
        changed = {key: weight.detach().clone() for key, weight in weights.items()}
        other = draw(model).detach()
        with trained.use(model, part, {k: 0 * v for k, v in changed.items()}):
            pass  # within a training
        with trained.use(model, part, {}):
            torch.testing.assert_close(draw(model), before)  # as it was before it
        torch.testing.assert_close(draw(model), other)
    assert (other - before).abs().max() > 1e-3
    after = weights_of(model)
    assert after.keys() == objects.keys()
    assert all(
        after[key] is weight and torch.equal(weight, values[key]) for key, weight in objects.items()
    )
    assert torch.equal(draw(model), before)
    with trained.use(model, part, changed):
        torch.testing.assert_close(draw(model), other)
    assert torch.equal(draw(model), before)


@over_parts
def test_nothing_else_gets_a_gradient(part: Part) -> None:
    model = load_once("Stable Diffusion 1.x")
    with trained.train(model, part) as weights:
        draw(model).square().mean().backward()
        trained_ones = {id(weight) for weight in weights.values()}
        for network in model.networks:
            for weight in network.parameters():
                assert (weight.grad is not None) <= (id(weight) in trained_ones)
        reached = [weight.grad is not None for weight in weights.values()]
        assert sum(reached) > 0.8 * len(reached)  # a block that the output skips has none


def test_half_precision_is_trained_in_float32() -> None:
    model = load_once("Stable Diffusion 1.x").to(torch.bfloat16)
    whole = draw(model)
    with trained.train(model, Part()) as weights:
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        torch.testing.assert_close(draw(model), whole, atol=0.05, rtol=0.05)
        draw(model).square().mean().backward()
        assert sum(weight.grad is not None for weight in weights.values()) > 10
        values = {key: weight.detach().clone() for key, weight in weights.items()}
    with trained.use(model, Part(), values):
        assert next(iter(model.network.weights)).dtype == torch.bfloat16
        torch.testing.assert_close(draw(model), whole)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "part", [PARTS["lora on all attention"], PARTS["weights and text"]], ids=["lora", "weights"]
)
def test_plain_diffusers_draws_the_same(name: str, part: Part, tmp_path: Path) -> None:
    model, pipeline = load_once(name), family(name)
    with trained.train(model, part) as weights:
        values = {k: w.detach() + 0.05 * torch.randn(w.shape) for k, w in weights.items()}
    with trained.use(model, part, values):
        prompts = model.text(["a red circle"])
        ours = model.network(model.noise([0]), 500.0, prompts)
    path = tmp_path / ("lora.safetensors" if part.rank else "pipeline")
    trained.save(path, model, part, values)
    if part.rank:
        pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    else:
        pipeline = type(pipeline).from_pretrained(path)
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    with torch.no_grad():
        theirs = _ask(network, model, chainrule.load(pipeline))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - model.network(model.noise([0]), 500.0, prompts)).abs().max() > 1e-3


def test_text_encoders_are_not_forgotten_beside_a_lora() -> None:
    with pytest.raises(UserError, match="omit the rank"):
        Part(rank=2, text=True)


def _ask(network, model: Model, again: Model) -> Tensor:
    """What diffusers' own network answers."""
    text, *pooled = again.text(["a red circle"])
    x = model.noise([0])
    if type(network).__name__ == "SD3Transformer2DModel":
        return network(
            x,
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=text,
            pooled_projections=pooled[0],
        ).sample
    if pooled:
        size = [x.shape[-2] * model.codec.factor, x.shape[-1] * model.codec.factor]
        ids = torch.tensor([[*size, 0.0, 0.0, *size]])
        return network(
            x, 500.0, text, added_cond_kwargs={"text_embeds": pooled[0], "time_ids": ids}
        ).sample
    return network(x, 500.0, text).sample
