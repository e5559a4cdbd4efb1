"""What of a model is trained, and that it is afterwards as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import chainrule
from chainrule import UserError
from chainrule.models import Model, trained
from chainrule.models.trained import Part
from conftest import tiny_model
from tiny import family, load_once

NAMES = ["Stable Diffusion 1.x", "Stable Diffusion XL", "Stable Diffusion 3"]
PARTS = {
    "lora": Part(rank=2),
    "lora on all attention": Part(rank=2, layers="attention"),
    "lora and text": Part(rank=2, layers="attention", text=True),
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
    "part",
    [PARTS["lora on all attention"], PARTS["lora and text"], PARTS["weights and text"]],
    ids=["lora", "lora and text", "weights"],
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


@pytest.mark.parametrize("name", [*NAMES, "Stable Diffusion 3 without T5", "Flux.1 dev", "scenes"])
def test_a_lora_is_on_each_clip_and_diffusers_reads_it(name: str, tmp_path: Path) -> None:
    """The embeddings are those that the pipeline itself makes with the file."""
    model, part = load_once(name), PARTS["lora and text"]
    pipeline = family(name) if name != "scenes" else None
    with trained.train(model, part) as weights:
        values = {k: w.detach() + 0.2 * torch.randn(w.shape) for k, w in weights.items()}
    clips = {"Stable Diffusion 1.x": 1, "Flux.1 dev": 1, "scenes": 1}.get(name, 2)
    named = {key.split()[0] for key in values if " " in key}
    assert named == {"text_encoder", "text_encoder_2"} if clips == 2 else {"text_encoder"}
    with torch.no_grad():
        before = model.text(["a red circle"])
        with trained.use(model, part, values):
            ours = model.text(["a red circle"])
    trained.save(tmp_path / "lora.safetensors", model, part, values)
    if pipeline is None:
        again = chainrule.load(loras=[tmp_path / "lora.safetensors"])
        torch.testing.assert_close(again.text(["a red circle"]), ours, atol=1e-4, rtol=1e-4)
        return
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    theirs = _read(pipeline, "a red circle")
    moved = [(a - b).abs().max() > 1e-3 for a, b in zip(ours, before, strict=True)]
    assert any(moved) if name == "Flux.1 dev" else all(moved)  # whose T5 is its own tensor
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["PixArt-alpha", "PixArt-Sigma", "DiT (classes)"])
def test_a_family_that_takes_no_lora_is_refused(name: str) -> None:
    for text in (False, True):
        with pytest.raises(UserError, match="takes a LoRA: choose a Stable Diffusion or a Flux"):
            trained.require(load_once(name), Part(rank=2, text=text))
    trained.require(load_once(name), PARTS["weights and text"])


def test_text_encoders_whose_lora_diffusers_does_not_read_are_refused() -> None:
    model = replace(load_once("Stable Diffusion 1.x"), text=tiny_model().text)
    for ask in (trained.require, lambda model, part: trained.train(model, part).__enter__()):
        with pytest.raises(UserError, match=r"reads no LoRA on the text encoders .*omit the rank"):
            ask(model, PARTS["lora and text"])
    assert not any("lora" in name for name in weights_of(model))
    trained.require(model, PARTS["lora"])


@pytest.mark.parametrize("name", NAMES)
def test_a_t5_that_stays_as_it_is_is_named(name: str, recwarn: pytest.WarningsRecorder) -> None:
    trained.require(load_once(name), PARTS["lora and text"])
    said = [str(each.message) for each in recwarn]
    assert len(said) == (name == "Stable Diffusion 3")
    assert all("text_encoder_3" in each for each in said)


@torch.no_grad()
def _read(pipeline, prompt: str) -> tuple[Tensor, ...]:
    """What diffusers' own pipeline makes of a prompt."""
    if type(pipeline).__name__ == "StableDiffusionPipeline":
        return (pipeline.encode_prompt(prompt, "cpu", 1, False)[0],)
    if type(pipeline).__name__ == "StableDiffusionXLPipeline":
        said = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        return said[0], said[2]
    if type(pipeline).__name__ == "FluxPipeline":
        return pipeline.encode_prompt(prompt, None, max_sequence_length=512)[:2]
    said = pipeline.encode_prompt(prompt, None, None, do_classifier_free_guidance=False)
    return said[0], said[2]


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
