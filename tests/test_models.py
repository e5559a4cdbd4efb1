"""Checkpoints as a user brings them: folders and pipelines, with what was loaded into them, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
)
from peft import LoraConfig
from sentencepiece import SentencePieceTrainer

import chainrule
from chainrule import EDICT, UserError, invert, sample
from chainrule.diffusion.denoiser import Conditioned
from chainrule.models import Model
from tiny import BETAS, SCHEDULERS, family, pipeline, save_family


@pytest.fixture(scope="module", params=list(SCHEDULERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    pipeline(SCHEDULERS[request.param]).save_pretrained(path)
    return path


@pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
@pytest.mark.parametrize(("network", "latent", "tolerance"), [
    (torch.float64, torch.float64, 1e-9), (torch.float32, torch.float64, 1e-4), (torch.float32, torch.float32, 1e-2),
    (torch.bfloat16, torch.float32, 0.2),
], ids=str)  # fmt: skip
def test_edict_inversion_returns_the_latents(folder: Path, network, latent, tolerance: float) -> None:
    model = chainrule.load(folder, dtype=network)
    denoiser, times = model.denoiser("a red circle", guidance_scale=1.0), model.schedule.times(10)
    with torch.no_grad():
        x_0 = model.encode(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(latent))
        pair = invert(denoiser, x_0, times, solver=EDICT())
        back = chainrule.sample_state(denoiser, pair, times, solver=EDICT())[0]
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
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(UserError, match="KandinskyPipeline, which is not supported yet"):
        chainrule.load(tmp_path)


@pytest.fixture
def given() -> StableDiffusionPipeline:
    """A pipeline that its owner is still training."""
    found = pipeline(SCHEDULERS["sd1"])
    found.unet.train()
    found.unet.conv_in.weight.requires_grad_(False)
    return found


def drawn(model: Model, prompt: str = "a red circle") -> torch.Tensor:
    with torch.no_grad():
        return model.decode(sample(model.denoiser(prompt), model.noise([0]), model.schedule.times(3)))


def test_a_pipeline_is_left_as_it_was(given: StableDiffusionPipeline) -> None:
    def state() -> list:
        parts = [part for part in given.components.values() if isinstance(part, torch.nn.Module)]
        weights = [(p.requires_grad, p.data_ptr(), p.clone()) for part in parts for p in part.parameters()]
        return [*weights, *(part.training for part in parts), given.scheduler, given.unet, dict(given.config)]

    before = state()
    model = chainrule.load(given)
    x_T = model.noise([0]).requires_grad_()
    model.decode(sample(model.denoiser("a red circle"), x_T, model.schedule.times(3))).sum().backward()
    for ours, was in zip(state(), before, strict=True):
        assert ours == was if not isinstance(was, tuple) else (ours[:2] == was[:2] and torch.equal(ours[2], was[2]))
    assert all(weight.grad is None for weight in given.unet.parameters())
    assert not any(weight.requires_grad for weight in model.network.weights)
    shared = {weight.data_ptr() for weight in given.unet.parameters()}
    assert {weight.data_ptr() for weight in model.network.weights} == shared  # no second copy in memory


def test_a_pipeline_has_its_own_dtype_and_device(given: StableDiffusionPipeline) -> None:
    for option in ({"dtype": torch.float16}, {"device": "cpu"}, {"variant": "fp16"}, {"loras": ["x"]}):
        with pytest.raises(UserError, match="a pipeline has its own dtype, device, words and LoRA: move it there"):
            chainrule.load(given, **option)
    assert chainrule.load(given.to(torch.float64)).network.module.dtype == torch.float64


def test_what_moves_between_devices_is_refused(given: StableDiffusionPipeline) -> None:
    given.unet._hf_hook = object()
    with pytest.raises(UserError, match=r"the pipeline's unet is moved between devices .* switch offloading off"):
        chainrule.load(given)


def test_lora_and_textual_inversion_and_a_tiny_autoencoder_work(given: StableDiffusionPipeline) -> None:
    before = drawn(chainrule.load(given))
    given.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    adapted = drawn(chainrule.load(given))
    given.unet.disable_adapters()
    torch.testing.assert_close(drawn(chainrule.load(given)), before)
    assert (adapted - before).abs().max() > 1e-3

    unknown = drawn(chainrule.load(given), "a red <thing>")
    given.load_textual_inversion({"<thing>": torch.full((2, 16), 3.0)})  # a word of two vectors
    assert (drawn(chainrule.load(given), "a red <thing>") - unknown).abs().max() > 1e-3
    torch.testing.assert_close(drawn(chainrule.load(given)), before)
    with pytest.raises(UserError, match="the prompt has 24 tokens and this model reads 22"):
        drawn(chainrule.load(given), "<thing> " * 12)

    torch.manual_seed(0)
    given.vae = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                                num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))  # fmt: skip
    model = chainrule.load(given)
    assert drawn(model).shape == (1, 3, 16, 16)
    assert model.encode(drawn(model)).shape == (1, *model.codec.latent_shape)


def test_images_of_another_size(given: StableDiffusionPipeline) -> None:
    model = chainrule.load(given, size=(24, 32))
    assert model.noise([0]).shape == (1, 4, 12, 16)
    assert drawn(model).shape == (1, 3, 24, 32)
    with pytest.raises(UserError, match="images of 24x30 pixels are not possible: this model's sides are multiples"):
        chainrule.load(given, size=(24, 30))


def test_xl_has_nothing_to_say_as_zeros_and_decodes_in_float32() -> None:
    found = family("Stable Diffusion XL")
    model = chainrule.load(found.to(torch.float16))
    assert model.codec.vae.dtype == torch.float32  # in half precision, its activations overflow
    assert found.vae.dtype == torch.float16
    text, pooled = model.text(["", "a red circle"])
    assert not text[0].any()
    assert not pooled[0].any()
    assert text[1].any()
    assert pooled[1].any()


def test_pixart_alpha_is_told_the_size() -> None:
    """The large one; its tiny pipeline cannot be asked, because it goes by the size of 1024 pixels."""
    model = chainrule.load(family("PixArt-alpha, large"), size=(16, 32))
    conditioning = model.text(["a red circle"])
    x = model.noise([0])
    sizes = {"resolution": torch.tensor([[16.0, 32.0]]), "aspect_ratio": torch.tensor([[0.5]])}
    expected = model.network.module(
        x, encoder_hidden_states=conditioning[0], encoder_attention_mask=conditioning[1],
        timestep=torch.tensor([500.0]), added_cond_kwargs=sizes,
    ).sample[:, :4]  # fmt: skip
    torch.testing.assert_close(model.network(x, 500.0, conditioning), expected)


def test_the_guidance_of_a_consistency_model_is_an_input() -> None:
    model = chainrule.load(family("Latent consistency (LCM)"))
    x = model.noise([0])
    weak, strong = (model.denoiser("a red circle", guidance_scale=scale) for scale in (1.0, 8.0))
    assert isinstance(strong, Conditioned)  # one call, not two
    assert not torch.equal(weak(x, 999.0).eps, strong(x, 999.0).eps)


REFUSED = {
    "a negative prompt of Flux": ("Flux.1 dev", {"negative_prompt": "a cat"}, "cannot be told what an image"),
    "the scale of schnell": ("Flux.1 schnell", {"guidance_scale": 3.0}, r"no guidance scale \(it was distilled"),
    "the scale of DDPM": ("Pixels, told nothing", {"prompt": "", "guidance_scale": 2.0}, "it is told nothing"),
    "the prompt of DDPM": ("Pixels, told nothing", {"prompt": "a cat"}, "has no use for the prompt 'a cat': leave it"),
    "the class of DiT": ("DiT (classes)", {"prompt": "a cat"}, r"no class 'a cat': name one \(Tinca tinca, goldfish"),
    "the class of pixels": ("Pixels, told a class", {"prompt": "5"}, "its number, from 0 to 4"),
    "the words of T5": ("PixArt-alpha", {"prompt": "red " * 99}, "reads 119: shorten it"),
    "the words of SD3": ("Stable Diffusion 3", {"prompt": "red " * 99}, "reads 255: shorten it"),
    "the words of SD3 without T5": ("Stable Diffusion 3 without T5", {"prompt": "red " * 30}, "reads 22: shorten it"),
    "the words of Flux": ("Flux.1 dev", {"prompt": "red " * 199}, "reads 511: shorten it"),
    "the words of XL": ("Stable Diffusion XL", {"prompt": "red " * 30}, "reads 22: shorten it"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_family_cannot_do_is_refused(case: str) -> None:
    name, options, message = REFUSED[case]
    model = chainrule.load(family(name))
    with pytest.raises(UserError, match=message):
        model.denoiser(**({"prompt": "a red circle"} | options))


def test_other_schedulers(given: StableDiffusionPipeline) -> None:
    """Each keeps its own times; one that calls the network twice a step has DDIM's."""
    for scheduler, times in (
        (DPMSolverMultistepScheduler(**BETAS), [999, 749, 500, 250]),
        (EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"), [999, 749, 499, 249]),
        (HeunDiscreteScheduler(**BETAS), [999, 666, 333, 0]),
        (LCMScheduler(**BETAS), [999, 759, 499, 259]),
    ):
        given.scheduler = scheduler
        model = chainrule.load(given)
        assert model.schedule.times(4).tolist() == [*times, -1]
        assert model.schedule.sigma(-1.0) == 0
    with pytest.raises(UserError, match="60 sampling steps are not possible"):
        model.schedule.times(60)  # a consistency model was distilled at 50 times


def test_schedulers_of_other_processes_are_refused(given: StableDiffusionPipeline) -> None:
    for scheduler, message in (
        (EDMEulerScheduler(), "the scheduler EDMEulerScheduler of this checkpoint is not supported: give"),
        (FlowMatchEulerDiscreteScheduler(), "the scheduler FlowMatchEulerDiscreteScheduler"),
        (EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"), "with these settings"),
    ):
        given.scheduler = scheduler
        with pytest.raises(UserError, match=message):
            chainrule.load(given)


def test_times_that_are_visited_twice_are_refused(given: StableDiffusionPipeline) -> None:
    given.scheduler = DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True)
    schedule = chainrule.load(given).schedule
    assert len(schedule.times(20)) == 21
    with pytest.raises(UserError, match=r"50 sampling steps are not possible: rounded, .* visits a time twice"):
        schedule.times(50)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_no_guidance_is_as_in_diffusers(given: StableDiffusionPipeline, scale: float) -> None:
    """Turbo's authors write 0 for none."""
    assert isinstance(chainrule.load(given).denoiser("a red circle", guidance_scale=scale), Conditioned)
    assert isinstance(chainrule.load(family("Flux.1 schnell")).denoiser("a cat", guidance_scale=scale), Conditioned)


def test_one_device_by_name_is_no_offloading(given: StableDiffusionPipeline) -> None:
    given.unet.hf_device_map = {"": "cpu"}
    chainrule.load(given)
    given.unet.hf_device_map = {"conv_in": "cpu", "conv_out": "disk"}
    with pytest.raises(UserError, match="moved between devices"):
        chainrule.load(given)


def test_a_sentencepiece_tokenizer_is_read(tmp_path: Path) -> None:
    """PixArt is published with nothing else."""
    save_family("PixArt-Sigma", tmp_path)
    words, written = ["a red circle on a white background", "a blue square"] * 20, io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=written, vocab_size=40, hard_vocab_limit=False, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(written.getvalue())
    text, there = chainrule.load(tmp_path).text(["a red circle"])
    assert text.shape[:2] == there.shape == (1, 300)
    assert 4 <= there.sum() < 20


BAD_SIZES = [512, (16,), "16x16", (16, 16, 16), (16.0, 16.0), (0, 16), (-16, 16)]


@pytest.mark.parametrize("size", BAD_SIZES, ids=str)
def test_bad_sizes_are_refused(given: StableDiffusionPipeline, size) -> None:
    with pytest.raises(UserError, match=r"a size is|are not possible"):
        chainrule.load(given, size=size)


def test_what_a_checkpoint_lacks_or_has_too_much_of_is_said(tmp_path: Path) -> None:
    flux = family("Flux.1 dev")
    flux.text_encoder_2 = flux.tokenizer_2 = None
    with pytest.raises(UserError, match="without its text encoder: give the conditioning"):
        chainrule.load(flux).denoiser("a cat")
    with pytest.raises(UserError, match="have at most 128 pixels"):
        chainrule.load(family("Stable Diffusion 3"), size=(256, 256))
    wide = family("DiT (classes)")
    model = chainrule.load(wide, size=(16, 32))
    with pytest.raises(UserError, match="square images only"):
        drawn(model, "goldfish")
    nameless = family("Stable Diffusion 1.x")
    nameless.unet.register_to_config(sample_size=None)
    with pytest.raises(UserError, match="does not say how large its images are: name a size"):
        chainrule.load(nameless)
    assert chainrule.load(nameless, size=(16, 16)).codec.latent_shape == (4, 8, 8)
    filling = family("Stable Diffusion 1.x")
    filling.unet.register_to_config(in_channels=9)
    with pytest.raises(UserError, match=r"takes 9 channels .* \(inpainting, depth\) are not supported"):
        chainrule.load(filling)
    adapted = family("Stable Diffusion XL")
    adapted.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(UserError, match=r"has to be told a picture too .* unload its IP-adapter"):
        chainrule.load(adapted)
    with pytest.raises(UserError, match=r"a dtype is torch\.float16"):
        chainrule.load(nameless, dtype="float16")


@pytest.mark.parametrize("index", ["{", "[]", '{"_class_name": ["mine", "MyPipeline"]}'])
def test_a_broken_index_is_said(tmp_path: Path, index: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(UserError, match=r"no pipeline's index|is a MyPipeline, which|is a nothing"):
        chainrule.load(tmp_path)


def test_flow_matching_needs_its_scheduler() -> None:
    found = family("Stable Diffusion 3")
    found.scheduler = EulerDiscreteScheduler()
    with pytest.raises(UserError, match="EulerDiscreteScheduler is not supported for flow matching: give the pipeline"):
        chainrule.load(found)
