"""What every family owes a Model: conditionings, guidance, networks; and what it refuses."""

from __future__ import annotations

import pytest
import torch

import chainrule
from chainrule import UserError
from chainrule.diffusion.denoiser import Conditioned
from chainrule.models import Model
from tiny import FAMILIES, family


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """A model of each family."""
    return {name: chainrule.load(family(name), size=(16, 16)) for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
def test_its_networks_are_named_each_once(models: dict[str, Model], name: str) -> None:
    """All parts with weights of its pipeline: what a memory plan may move."""
    model, pipeline = models[name], family(name)
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in parts]
    found = [sum(weight.numel() for weight in part.parameters()) for part in model.networks]
    assert sorted(found) == sorted(sizes)
    assert model.networks[0] is model.network.module


def test_xl_reads_nothing_as_zeros(models: dict[str, Model]) -> None:
    text, pooled = models["Stable Diffusion XL"].text(["", "a red circle"])
    assert not text[0].any()
    assert not pooled[0].any()
    assert text[1].any()
    assert pooled[1].any()


def test_pixart_alpha_gets_the_size() -> None:
    """The large one; its tiny pipeline cannot be asked, because it goes by a size of 1024."""
    model = chainrule.load(family("PixArt-alpha, large"), size=(16, 32))
    text, there = conditioning = model.text(["a red circle"])
    x = model.noise([0])
    sizes = {"resolution": torch.tensor([[16.0, 32.0]]), "aspect_ratio": torch.tensor([[0.5]])}
    expected = model.network.module(
        x,
        encoder_hidden_states=text,
        encoder_attention_mask=there,
        timestep=torch.tensor([500.0]),
        added_cond_kwargs=sizes,
    ).sample[:, :4]
    torch.testing.assert_close(model.network(x, 500.0, conditioning), expected)


def test_the_guidance_of_a_consistency_model_is_an_input(models: dict[str, Model]) -> None:
    model = models["Latent consistency (LCM)"]
    x = model.noise([0])
    weak, strong = (model.denoiser("a red circle", guidance_scale=scale) for scale in (1.0, 8.0))
    assert isinstance(strong, Conditioned)  # one call, not two
    assert not torch.equal(weak(x, 999.0).eps, strong(x, 999.0).eps)


@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.parametrize("name", ["Stable Diffusion 1.x", "Flux.1 schnell"])
def test_no_guidance_is_as_in_diffusers(models, name: str, scale: float) -> None:
    """Turbo's authors write 0 for none."""
    assert isinstance(models[name].denoiser("a cat", guidance_scale=scale), Conditioned)


LONG = {"prompt": "red " * 30}
REFUSED = {
    "a negative prompt of Flux": (
        "Flux.1 dev",
        {"negative_prompt": "a cat"},
        "takes no negative prompt",
    ),
    "the scale of schnell": (
        "Flux.1 schnell",
        {"guidance_scale": 3.0},
        r"no guidance scale \(it was dist",
    ),
    "the scale of DDPM": (
        "Pixels, told nothing",
        {"prompt": "", "guidance_scale": 2.0},
        "it takes no prompt",
    ),
    "the prompt of DDPM": (
        "Pixels, told nothing",
        {"prompt": "a cat"},
        "takes no prompt, not even 'a cat': omit it",
    ),
    "the class of DiT": (
        "DiT (classes)",
        {"prompt": "a cat"},
        r"no class 'a cat': name one \(Tinca tinca, gol",
    ),
    "the class of pixels": ("Pixels, told a class", {"prompt": "5"}, "its number, from 0 to 4"),
    "the words of SD1": (
        "Stable Diffusion 1.x",
        LONG,
        "has 30 tokens and this model reads 22: shorten it",
    ),
    "the words of T5": ("PixArt-alpha", {"prompt": "red " * 99}, "reads 119: shorten it"),
    "the words of SD3": ("Stable Diffusion 3", {"prompt": "red " * 99}, "reads 255: shorten it"),
    "the words of SD3 without T5": ("Stable Diffusion 3 without T5", LONG, "reads 22: shorten it"),
    "the words of Flux": ("Flux.1 dev", {"prompt": "red " * 199}, "reads 511: shorten it"),
    "the words of XL": ("Stable Diffusion XL", LONG, "reads 22: shorten it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_family_cannot_do_is_refused(models: dict[str, Model], case: str) -> None:
    name, options, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        models[name].denoiser(**({"prompt": "a red circle"} | options))


def test_a_pipeline_without_its_text_encoder_needs_a_conditioning() -> None:
    flux = family("Flux.1 dev")
    flux.text_encoder_2 = flux.tokenizer_2 = None
    with pytest.raises(UserError, match="without its text encoder: give the conditioning"):
        chainrule.load(flux).denoiser("a cat")


def test_a_network_that_reads_a_picture_is_refused() -> None:
    adapted = family("Stable Diffusion XL")
    adapted.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(UserError, match=r"takes a picture too .* unload its IP-adapter"):
        chainrule.load(adapted)
