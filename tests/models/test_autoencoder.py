"""Codecs: the clamp, and the sizes of images that a model can make."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

import chainrule
from chainrule import UserError, sample
from chainrule.losses import Brightness
from chainrule.methods import (
    DOODL,
    ILVR,
    Asyrp,
    DiffEdit,
    OneStepGuidance,
    Photo,
    PromptToPrompt,
    RePaint,
    SDEdit,
    Task,
)
from chainrule.models import Model
from chainrule.models.autoencoder import latent_sides
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


ODD = ((50, 70), (34, 18), (26, 16))
"""The network's latents have an odd side, or two."""


@pytest.mark.parametrize("size", ODD, ids=str)
@pytest.mark.parametrize("name", ["Stable Diffusion 1.x", "Stable Diffusion XL"])
def test_latents_that_do_not_halve_are_drawn_as_by_the_pipeline(name: str, size) -> None:
    pipeline = family(name)
    if name.endswith("1.x"):
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.check_inputs = lambda *_, **__: None  # it asks for multiples of 8, as if all VAEs had
    model = chainrule.load(pipeline, size=size)
    denoiser, times = model.denoiser("red", guidance_scale=3.0), model.schedule.times(3)
    x_T = model.noise([0])
    with torch.no_grad():
        ours = model.decode(sample(denoiser, x_T, times))
        shape = {"height": size[0], "width": size[1], "num_inference_steps": 3}
        theirs = pipeline("red", latents=x_T, guidance_scale=3.0, output_type="pt", **shape).images
    assert ours.shape[2:] == size
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["Stable Diffusion 1.x", "Stable Diffusion XL"])
def test_edict_returns_from_latents_that_do_not_halve(name: str) -> None:
    model = chainrule.load(family(name).to(torch.float64), size=(50, 70))
    denoiser, times = model.denoiser("red", guidance_scale=1.0), model.schedule.times(3)
    with torch.no_grad():
        z = model.encode(torch.rand(1, 3, 50, 70, dtype=torch.float64))
        pair = chainrule.invert(denoiser, z, times, solver=chainrule.EDICT())
        back = chainrule.sample_state(denoiser, pair, times, solver=chainrule.EDICT())[0]
    assert (back - z).norm() < 1e-8 * z.norm()


EDITS = {
    "sdedit": SDEdit(strength=0.7, steps=3),
    "ilvr": ILVR(factor=3, steps=3),
    "diffedit": DiffEdit(noises=2, steps=3),
    "repaint": RePaint(jump=1, repeats=2, steps=3),
    "prompt-to-prompt": PromptToPrompt(steps=3),
    "asyrp": Asyrp(steps=3),
    "one-step": OneStepGuidance(steps=3),
    "doodl": DOODL(iterations=1, steps=2, crops=0),
}


@pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
@pytest.mark.parametrize("name", EDITS)
def test_methods_take_latents_that_do_not_halve(name: str) -> None:
    size = (50, 34)
    model = chainrule.load(family("Stable Diffusion 1.x"), size=size)
    photo, mask = torch.rand(1, 3, *size), torch.zeros(1, 1, *size)
    mask[:, :, :20, :14] = 1
    shown, told = (model.denoiser(text, guidance_scale=2.0) for text in ("a circle", "a square"))
    given = Photo(photo, shown, size, mask if name == "repaint" else None, prompts=("a circle",))
    edited = None if name in ("one-step",) else given
    task = Task(model, told, (0,), Brightness(1.0), photo=edited, prompts=("a square",))
    made = EDITS[name](task)
    assert made.images.shape == (1, 3, *size)
    assert torch.isfinite(made.images).all()
    if made.attention is not None:
        assert made.attention.shape[2:] == (25, 17) or made.attention.shape[2:] == (13, 9)


def test_a_photo_is_fitted_to_sides_that_halve(model: Model) -> None:
    """So that no photo changes its size because more sizes are possible."""
    assert model.codec.multiple == 2
    assert all(side % 4 == 0 for side in model.codec.fit(torch.rand(3, 33, 41)).shape[1:])


BAD_SIZES = [512, (16,), "16x16", (16, 16, 16), (16.0, 16.0), (0, 16), (-16, 16), (24, 31)]


@pytest.mark.parametrize("size", BAD_SIZES, ids=str)
def test_bad_sizes_are_refused(given: StableDiffusionPipeline, size) -> None:
    with pytest.raises(UserError, match=r"a size is|are not possible") as raised:
        chainrule.load(given, size=size)
    assert raised.value.field == "size"


@pytest.mark.parametrize("default", [64, (64, 64)], ids=str)
@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((512, 512), None), ((512, 768), None), ((512, 1024), None), ((512, 256), None),
        ((1024, 1024), "4 times the pixels of the 512x512 .* show things twice"),
        ((256, 256), "0.25 times the pixels .* show nothing: choose a size nearer to it"),
        ((64, 2048), None), ((8, 512), "0.0156 times"),
    ],
)  # fmt: skip
def test_a_size_that_is_far_from_what_was_learnt_is_said(
    size: tuple[int, int], said: str | None, default: Any
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert latent_sides(size, default, 8, 8) == (size[0] // 8, size[1] // 8)
        assert latent_sides(None, default, 8, 8) == (64, 64)
        assert latent_sides(size, None, 8, 8) == (size[0] // 8, size[1] // 8)
    messages = [str(each.message) for each in caught]
    assert len(messages) == (said is not None)
    assert all(re.search(said or "", message) for message in messages)


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
    for channels, reason in {5: "depth map", 7: "upscaler", 8: "InstructPix2Pix", 6: ""}.items():
        found.unet.register_to_config(in_channels=channels)
        with pytest.raises(UserError, match=rf"takes {channels} channels .*{reason}.*: choose"):
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
