"""Codecs: the clamp, and the sizes of images that a model can make."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

import chainrule
from chainrule import UserError, sample
from chainrule.models import Model
from tiny import family


@pytest.fixture(scope="module")
def given() -> StableDiffusionPipeline:
    return family("Stable Diffusion 1.x")


@pytest.fixture(scope="module")
def model(given: StableDiffusionPipeline) -> Model:
    return chainrule.load(given)


def draw(model: Model, prompt: str = "a red circle") -> Tensor:
    with torch.no_grad():
        denoiser, times = model.denoiser(prompt), model.schedule.times(3)
        return model.decode(sample(denoiser, model.noise([0]), times))


def test_the_clamp_lets_the_gradient_through(model: Model) -> None:
    latents = (100 * model.noise([0])).requires_grad_()
    images = model.decode(latents)
    assert (images == 1).any()
    (gradient,) = torch.autograd.grad(images[images == 1].sum(), latents)
    assert gradient.abs().sum() > 0


def test_images_of_another_size(given: StableDiffusionPipeline) -> None:
    model = chainrule.load(given, size=(24, 32))
    assert model.noise([0]).shape == (1, 4, 12, 16)
    assert draw(model).shape == (1, 3, 24, 32)


BAD_SIZES = [512, (16,), "16x16", (16, 16, 16), (16.0, 16.0), (0, 16), (-16, 16), (24, 30)]


@pytest.mark.parametrize("size", BAD_SIZES, ids=str)
def test_bad_sizes_are_refused(given: StableDiffusionPipeline, size) -> None:
    with pytest.raises(UserError, match=r"a size is|are not possible") as raised:
        chainrule.load(given, size=size)
    assert raised.value.field == "size"


@pytest.mark.parametrize("size", [(40, 60), (300, 100), (9, 9)])
def test_a_photo_is_fitted_to_the_model(model: Model, size: tuple[int, int]) -> None:
    codec = model.codec
    fitted = codec.fit(torch.rand(3, *size))
    assert fitted.shape[0] == 3
    assert all(side % codec.multiple == 0 for side in fitted.shape[1:])
    area = 16 * 16
    assert 0.6 * area <= fitted[0].numel() <= 1.5 * area
    assert model.decode(model.encode(fitted[None])).shape[1:] == fitted.shape


def test_a_size_that_is_not_named_is_needed() -> None:
    found = family("Stable Diffusion 1.x")
    found.unet.register_to_config(sample_size=None)
    with pytest.raises(UserError, match="does not say how large its images are: name a size"):
        chainrule.load(found)
    assert chainrule.load(found, size=(16, 16)).codec.latent_shape == (4, 8, 8)


def test_a_network_that_sees_more_than_latents_is_refused() -> None:
    found = family("Stable Diffusion 1.x")
    found.unet.register_to_config(in_channels=9)
    with pytest.raises(UserError, match=r"takes 9 channels .* \(inpainting, depth\) are not supp"):
        chainrule.load(found)


def test_sizes_that_only_one_family_refuses() -> None:
    with pytest.raises(UserError, match="have at most 128 pixels"):
        chainrule.load(family("Stable Diffusion 3"), size=(256, 256))
    with pytest.raises(UserError, match="square images only"):
        draw(chainrule.load(family("DiT (classes)"), size=(16, 32)), "goldfish")


def test_xl_decodes_in_float32() -> None:
    """In half precision, its activations overflow."""
    found = family("Stable Diffusion XL").to(torch.float16)
    assert chainrule.load(found).codec.vae.dtype == torch.float32
    assert found.vae.dtype == torch.float16
