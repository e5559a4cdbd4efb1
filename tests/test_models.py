"""Any Stable Diffusion folder: tiny pipelines that the tests build, saved and loaded as a user would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import chainrule
from chainrule import DDIM, EDICT, Backprop, Checkpoint, Reversible, UserError, invert, sample
from tiny import BETAS, SCHEDULERS, pipeline


@pytest.fixture(scope="module", params=list(SCHEDULERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    pipeline(SCHEDULERS[request.param]).save_pretrained(path)
    return path


def test_parity_with_the_familys_own_pipeline(folder: Path) -> None:
    """The same noise, steps and guidance as diffusers' StableDiffusionPipeline with DDIM."""
    model = chainrule.load(folder)
    prompt, negative = "a red circle", "a blue square"
    x_T = model.noise([1, 2])
    denoiser = model.denoiser(prompt, negative_prompt=negative, guidance_scale=4.0)
    with torch.no_grad():
        ours = sample(denoiser, x_T, model.schedule.times(10))
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        [prompt] * 2, negative_prompt=[negative] * 2, latents=x_T, num_inference_steps=10, guidance_scale=4.0,
        output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::chainrule.step.edict.DriftWarning")
def test_gradients_agree_on_a_real_network(folder: Path) -> None:
    model = chainrule.load(folder, dtype=torch.float64)
    times = model.schedule.times(4)

    def found(step, gradient) -> list[torch.Tensor]:
        x_T = model.noise([3]).double().requires_grad_()
        (text,) = (value.clone().requires_grad_() for value in model.text(["a red circle"]))
        weight = model.network.weights[0]
        weight.requires_grad_()
        x_0 = sample(model.denoiser((text,), guidance_scale=2.0), x_T, times, step=step, gradient=gradient)
        gradients = torch.autograd.grad(model.decode(x_0).square().sum(), [x_T, text, weight])
        weight.requires_grad_(False)
        return list(gradients)

    for step, way in ((DDIM(), Checkpoint()), (EDICT(), Checkpoint()), (EDICT(), Reversible())):
        for ours, expected in zip(found(step, way), found(step, Backprop()), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore::chainrule.step.edict.DriftWarning")
@pytest.mark.parametrize(("network", "latent", "tolerance"), [
    (torch.float64, torch.float64, 1e-9), (torch.float32, torch.float64, 1e-4), (torch.float32, torch.float32, 1e-2),
    (torch.bfloat16, torch.float32, 0.2),
], ids=str)  # fmt: skip
def test_edict_inversion_returns_the_latents(folder: Path, network, latent, tolerance: float) -> None:
    model = chainrule.load(folder, dtype=network)
    denoiser, times = model.denoiser("a red circle", guidance_scale=1.0), model.schedule.times(10)
    with torch.no_grad():
        x_0 = model.encode(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(latent))
        pair = invert(denoiser, x_0, times, step=EDICT())
        back = chainrule.sample_state(denoiser, pair, times, step=EDICT())[0]
    assert pair[0].dtype == latent
    assert (back - x_0).norm() < tolerance * x_0.norm()


def test_weights_are_frozen_and_latents_are_float32(folder: Path) -> None:
    model = chainrule.load(folder, dtype=torch.bfloat16)
    assert not any(weight.requires_grad for weight in model.network.weights)
    with torch.no_grad():
        x_0 = sample(model.denoiser("a red circle"), model.noise([0]), model.schedule.times(2))
        images = model.decode(x_0)
    assert x_0.dtype == images.dtype == torch.float32
    assert images.shape == (1, 3, 16, 16)
    assert 0 <= images.min() <= images.max() <= 1


def test_the_clamp_lets_the_gradient_through(folder: Path) -> None:
    model = chainrule.load(folder)
    latents = (100 * model.noise([0])).requires_grad_()
    images = model.decode(latents)
    assert (images == 1).any()
    (gradient,) = torch.autograd.grad(images[images == 1].sum(), latents)
    assert gradient.abs().sum() > 0


def test_a_prompt_past_the_limit_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"the prompt has 30 tokens and this model reads 22: shorten it"):
        chainrule.load(folder).denoiser("red " * 30)


def test_epsilon_at_zero_signal_is_refused(tmp_path: Path) -> None:
    pipeline(DDIMScheduler(**BETAS, rescale_betas_zero_snr=True)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot start at zero signal"):
        chainrule.load(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/no/where", "a/b/c"])
def test_a_missing_model_is_said_without_asking_the_hub(name: str) -> None:
    with pytest.raises(UserError, match="there is no model"):
        chainrule.load(name)


def test_other_folders_and_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no diffusers pipeline"):
        chainrule.load(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match="FluxPipeline, which is not supported yet"):
        chainrule.load(tmp_path)
