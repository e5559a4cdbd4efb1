"""Checkpoints as users bring them: folders, pipelines, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from sentencepiece import SentencePieceTrainer

import chainrule
from chainrule import EDICT, UserError, invert, sample
from chainrule.models import FAMILIES, Model, _load, installed
from chainrule.specs import Registry
from tiny import BETAS, SCHEDULERS, pipeline, save_family


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved checkpoints, one for each parameterization and end of the schedule."""
    found = {}
    for name, scheduler in SCHEDULERS.items():
        found[name] = tmp_path_factory.mktemp(name)
        pipeline(scheduler).save_pretrained(found[name])
    return found


DTYPES = [
    ("sd1", torch.float64, torch.float64, 1e-9),
    ("sd2", torch.float64, torch.float64, 1e-9),
    ("zero", torch.float64, torch.float64, 1e-9),
    ("sd1", torch.float32, torch.float64, 1e-4),
    ("sd1", torch.float32, torch.float32, 1e-2),
    ("sd1", torch.bfloat16, torch.float32, 0.2),
    ("zero", torch.bfloat16, torch.float32, 0.2),
]


@pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
@pytest.mark.parametrize(("name", "network", "latent", "tolerance"), DTYPES, ids=str)
def test_edict_inversion_returns_the_latents(folders, name, network, latent, tolerance) -> None:
    model = chainrule.load(folders[name], dtype=network)
    denoiser, times = model.denoiser("a red circle", guidance_scale=1.0), model.schedule.times(10)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(latent)
    with torch.no_grad():
        x_0 = model.encode(images)
        pair = invert(denoiser, x_0, times, solver=EDICT())
        back = chainrule.sample_state(denoiser, pair, times, solver=EDICT())[0]
    assert pair[0].dtype == latent
    assert (back - x_0).norm() < tolerance * x_0.norm()


def test_weights_are_frozen_and_latents_are_float32(folders) -> None:
    model = chainrule.load(folders["zero"], dtype=torch.bfloat16)
    assert not any(weight.requires_grad for weight in model.network.weights)
    with torch.no_grad():
        x_0 = sample(model.denoiser("a red circle"), model.noise([0]), model.schedule.times(2))
        images = model.decode(x_0)
    assert x_0.dtype == images.dtype == torch.float32
    assert images.shape == (1, 3, 16, 16)
    assert 0 <= images.min() <= images.max() <= 1


def test_the_bundled_model_by_its_name_and_by_its_folder() -> None:
    models = [chainrule.load(), chainrule.load("scenes"), chainrule.load(_load.SCENES.pipeline)]
    assert {(m.name, m.guidance_scale, m.photo_scale) for m in models} == {("scenes", 3.0, 1.5)}
    assert installed()[0] == "scenes"


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
        return model.decode(
            sample(model.denoiser(prompt), model.noise([0]), model.schedule.times(3))
        )


def test_a_pipeline_is_left_as_it_was(given: StableDiffusionPipeline) -> None:
    def state() -> list:
        parts = [part for part in given.components.values() if isinstance(part, torch.nn.Module)]
        weights = [
            (p.requires_grad, p.data_ptr(), p.clone()) for part in parts for p in part.parameters()
        ]
        return [
            *weights,
            *(part.training for part in parts),
            given.scheduler,
            given.unet,
            dict(given.config),
        ]

    before = state()
    model = chainrule.load(given)
    x_T = model.noise([0]).requires_grad_()
    model.decode(
        sample(model.denoiser("a red circle"), x_T, model.schedule.times(3))
    ).sum().backward()
    for ours, was in zip(state(), before, strict=True):
        assert (
            ours == was
            if not isinstance(was, tuple)
            else (ours[:2] == was[:2] and torch.equal(ours[2], was[2]))
        )
    assert all(weight.grad is None for weight in given.unet.parameters())
    assert not any(weight.requires_grad for weight in model.network.weights)
    shared = {weight.data_ptr() for weight in given.unet.parameters()}
    assert {weight.data_ptr() for weight in model.network.weights} == shared  # no second copy


def test_a_pipeline_has_its_own_dtype_and_device(given: StableDiffusionPipeline) -> None:
    for option in (
        {"dtype": torch.float16},
        {"device": "cpu"},
        {"variant": "fp16"},
        {"loras": ["x"]},
    ):
        with pytest.raises(
            UserError, match="a pipeline has its own dtype, device, words and LoRA: move it there"
        ):
            chainrule.load(given, **option)
    assert chainrule.load(given.to(torch.float64)).network.module.dtype == torch.float64


def test_what_moves_between_devices_is_refused(given: StableDiffusionPipeline) -> None:
    given.unet._hf_hook = object()
    with pytest.raises(
        UserError, match=r"the pipeline's unet is moved between devices .* switch offloading off"
    ):
        chainrule.load(given)


def test_lora_and_textual_inversion_work(given: StableDiffusionPipeline) -> None:
    before = drawn(chainrule.load(given))
    given.unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
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


def test_a_tiny_autoencoder_works(given: StableDiffusionPipeline) -> None:
    torch.manual_seed(0)
    given.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    model = chainrule.load(given)
    assert drawn(model).shape == (1, 3, 16, 16)
    assert model.encode(drawn(model)).shape == (1, *model.codec.latent_shape)


def test_one_device_by_name_is_no_offloading(given: StableDiffusionPipeline) -> None:
    given.unet.hf_device_map = {"": "cpu"}
    chainrule.load(given)
    given.unet.hf_device_map = {"conv_in": "cpu", "conv_out": "disk"}
    with pytest.raises(UserError, match="moved between devices"):
        chainrule.load(given)


@pytest.mark.parametrize("index", ["{", "[]", '{"_class_name": ["mine", "MyPipeline"]}'])
def test_a_broken_index_is_said(tmp_path: Path, index: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(
        UserError, match=r"not the index of a pipeline|is a MyPipeline, which|is a nothing"
    ):
        chainrule.load(tmp_path)


def test_a_dtype_is_torchs(given: StableDiffusionPipeline) -> None:
    with pytest.raises(UserError, match=r"a dtype is torch\.float16"):
        chainrule.load(given, dtype="float16")


def test_epsilon_at_zero_signal_is_refused(tmp_path: Path) -> None:
    pipeline(DDIMScheduler(**BETAS, rescale_betas_zero_snr=True)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot start at zero signal"):
        chainrule.load(tmp_path)


def test_a_sentencepiece_tokenizer_is_read(tmp_path: Path) -> None:
    """PixArt is published with nothing else."""
    save_family("PixArt-Sigma", tmp_path)
    words, written = ["a red circle on a white background", "a blue square"] * 20, io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_writer=written,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(written.getvalue())
    text, there = chainrule.load(tmp_path).text(["a red circle"])
    assert text.shape[:2] == there.shape == (1, 300)
    assert 4 <= there.sum() < 20


MINE = """
from diffusers import StableDiffusionPipeline
from chainrule.models.families.stable_diffusion import adapt as theirs


class MyPipeline(StableDiffusionPipeline):
    pass


def adapt(pipeline, name, size):
    return theirs(pipeline, name, size)


adapt.pipeline = MyPipeline
"""


@pytest.fixture
def another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that brings a family whose pipeline diffusers does not have."""
    (tmp_path / "mine.py").write_text(MINE)
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[chainrule.families]\nMyPipeline = mine:adapt\n")
    monkeypatch.syspath_prepend(tmp_path)
    fresh = Registry(FAMILIES.group, FAMILIES.what, FAMILIES.own)
    monkeypatch.setattr(_load, "FAMILIES", fresh)


@pytest.mark.usefixtures("another_package")
def test_another_package_brings_a_family(folders, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(folders["sd1"], folder)
    index = folder / "model_index.json"
    named = json.loads(index.read_text()) | {"_class_name": "MyPipeline"}
    index.write_text(json.dumps(named))
    model = chainrule.load(folder)
    assert type(model.text.pipeline).__name__ == "MyPipeline"
    assert torch.equal(drawn(model), drawn(chainrule.load(folders["sd1"])))
