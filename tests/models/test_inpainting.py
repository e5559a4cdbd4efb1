"""Networks that see a mask and a picture: the same images as diffusers' pipeline for them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

import chainrule
from chainrule import UserError, sample
from chainrule.methods import Photo, RePaint, SDEdit, Task
from chainrule.models import Model
from chainrule.runs.load import load_task
from chainrule.runs.spec import parse_spec
from tiny import family

NAMES = ("Stable Diffusion inpainting", "Stable Diffusion XL inpainting")


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Model:
    return chainrule.load(family(name))


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mask() -> Tensor:
    found = torch.zeros(1, 1, 16, 16)
    found[:, :, 3:11, 5:] = 1.0
    return found


def drawn(model: Model, **told) -> Tensor:
    denoiser = model.denoiser("a red circle", guidance_scale=3.0, **told)
    with torch.no_grad():
        return model.decode(sample(denoiser, model.noise([0]), model.schedule.times(4)))


def test_it_draws_what_its_pipeline_draws(name, model, photo, mask, monkeypatch) -> None:
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, *_: self.mode()
    )  # the pipeline encodes with noise
    pipeline, x_T = family(name), model.noise([0])
    options = {"strength": 1.0} if "XL" in name else {}
    theirs = pipeline(
        "a red circle",
        image=photo,
        mask_image=mask,
        latents=x_T,
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type="pt",
        height=16,
        width=16,
        **options,
    ).images
    if "XL" in name:  # which does not start at the schedule's own noise, but at Euler's
        sigma = model.schedule.sigma(model.schedule.times(4)[0].item()).float()
        assert 0.9 < sigma <= 1
    ours = drawn(model, photo=photo, mask=mask)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_what_it_is_told_of_a_picture_matters(model, photo, mask) -> None:
    everything, part = drawn(model), drawn(model, photo=photo, mask=mask)
    assert not torch.allclose(everything, part)
    assert not torch.allclose(part, drawn(model, photo=photo, mask=1 - mask))
    # what is to be filled in is not seen
    other = torch.where(mask > 0, 0.1, photo)
    assert torch.equal(drawn(model, photo=other, mask=mask), part)
    all_masked = drawn(model, photo=photo, mask=torch.ones_like(mask))
    assert torch.equal(all_masked, everything)
    assert torch.equal(drawn(model, photo=photo), everything)


def test_each_image_of_a_batch_has_its_own(model, photo, mask) -> None:
    photos = torch.cat([photo, photo.flip(2)])
    masks = torch.cat([mask, mask.flip(3)])
    denoiser = model.denoiser("red", photo=photos, mask=masks)
    x = model.noise([0, 1])
    both = denoiser(x, 500.0).eps
    for row in (0, 1):
        alone = denoiser.select([row])(x[row : row + 1], 500.0).eps
        torch.testing.assert_close(both[row : row + 1], alone)


def test_methods_fill_in(model, photo, mask) -> None:
    told = model.denoiser("a square", guidance_scale=2.0, photo=photo, mask=mask)
    given = Photo(photo, told, (16, 16), mask, exact=True, prompts=("a circle",))
    task = Task(model, told, (0,), photo=given, prompts=("a square",))
    for method in (RePaint(jump=1, repeats=1, steps=3), SDEdit(strength=0.8, steps=3)):
        made = method(task)
        assert torch.isfinite(made.images).all()
        torch.testing.assert_close(made.images * (1 - mask), photo * (1 - mask))


REFUSED = [
    ({"mask": torch.zeros(1, 1, 16, 16)}, "a mask is a part of a picture", "photo"),
    ({"photo": torch.zeros(3, 16, 16)}, r"the photo is \(3, 16, 16\): make it", "photo"),
    ({"photo": torch.zeros(1, 3, 15, 16)}, "multiples of 2", "photo"),
    ({"photo": torch.zeros(1, 3, 16, 16), "mask": torch.zeros(1, 1, 8, 8)}, "the mask is", "mask"),
]


@pytest.mark.parametrize(("told", "message", "field"), REFUSED)
def test_what_does_not_fit_is_refused(model, told, message, field) -> None:
    with pytest.raises(UserError, match=message) as raised:
        model.denoiser("red", **told)
    assert raised.value.field == field


def test_a_photo_of_another_size_must_be_told(model) -> None:
    wide = torch.rand(1, 3, 16, 32)
    z = model.encode(wide)
    with pytest.raises(UserError, match="told of a picture of 8x8 latents, and these are 8x16"):
        model.denoiser("red")(z, 500.0)
    model.denoiser("red", photo=wide)(z, 500.0)


def test_other_networks_are_told_no_picture(photo) -> None:
    with pytest.raises(UserError, match="is told no picture: omit it"):
        chainrule.load(family("Stable Diffusion 1.x")).denoiser("red", photo=photo)


def test_their_pipeline_with_a_plain_network_is_text_to_image() -> None:
    pipeline = family("Stable Diffusion inpainting")
    plain = family("Stable Diffusion 1.x")
    pipeline.unet = plain.unet
    assert chainrule.load(pipeline).picture is None


def test_a_run_tells_it_the_photo_and_the_mask(name: str, model: Model, tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((32, 24)).save(tmp_path / "photo.png")
    white = Image.new("L", (32, 24))
    white.paste(255, (4, 4, 20, 16))
    white.save(tmp_path / "mask.png")
    inputs = {
        "prompt": "a circle",
        "seed": "0,1",
        "photo": tmp_path / "photo.png",
        "mask": tmp_path / "mask.png",
        "guidance_scale": 2.0,
    }
    spec = parse_spec({"inputs": inputs, "methods": [{"kind": "repaint", "steps": 2}]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a random model draws no photo
        task = load_task(spec, model)
    given = task.require_photo()
    told = model.denoiser("a circle", guidance_scale=2.0, photo=given.images, mask=given.mask)
    x = task.x_T
    assert given.mask.any()
    assert torch.equal(task.denoiser(x, 500.0).eps, told(x, 500.0).eps)
    assert not torch.equal(
        told(x, 500.0).eps,
        model.denoiser("a circle", guidance_scale=2.0, photo=given.images)(x, 500.0).eps,
    )
    assert torch.isfinite(given.denoiser(x, 500.0).eps).all()
