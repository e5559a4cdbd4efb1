"""Checkpoints in one file, in the layout of the original code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import chainrule
from chainrule import UserError, sample
from chainrule.bundled import SCENES
from chainrule.models import Model
from chainrule.models.single_file import KINDS, _name_other
from tiny import BETAS

LAYERS = 1
"""In each block of the tiny networks."""
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def tiny(channels: int = 4) -> StableDiffusionPipeline:
    """The smallest that has what the conversion looks for."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(SCENES.pipeline / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=12,
        eos_token_id=tokenizer.eos_token_id,
    )
    kind = StableDiffusionPipeline if channels == 4 else StableDiffusionInpaintPipeline
    return kind(
        vae=AutoencoderKL(
            block_out_channels=(8, 16),
            norm_num_groups=4,
            sample_size=16,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            in_channels=channels,
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=LAYERS,
            norm_num_groups=4,
            attention_head_dim=2,
            cross_attention_dim=16,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def to_original(pipeline: StableDiffusionPipeline) -> dict[str, Tensor]:
    """A pipeline's weights under the names of the original code."""
    parts: dict[str, tuple[nn.Module, object]] = {
        "model.diffusion_model.": (pipeline.unet, name_of_unet),
        "first_stage_model.": (pipeline.vae, name_of_vae),
        "cond_stage_model.transformer.text_model.": (
            pipeline.text_encoder,
            lambda name: name.removeprefix("text_model."),
        ),
    }
    found = {}
    for prefix, (network, rename) in parts.items():
        for name, value in network.state_dict().items():
            square = prefix.startswith("first") and re.search(r"attentions.*\.to_.*weight", name)
            found[prefix + rename(name)] = value[:, :, None, None] if square else value
    return {name: value.contiguous().clone() for name, value in found.items()}


def name_of_unet(name: str) -> str:
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs)
    side, *numbers, kind, index, rest = re.fullmatch(
        r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?\.(\w+)\.(\d+)\.(.*)", name
    ).groups()
    for ours, theirs in RESNET.items():
        if kind == "resnets":
            rest = re.sub(rf"^{ours}\.", f"{theirs}.", rest)
    if side == "mid_block":
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{rest}"
    block, index = int(numbers[0]), int(index)
    within = 0 if kind == "resnets" else 1
    if side == "down_blocks":
        at = 1 + block * (LAYERS + 1) + index
        if kind == "downsamplers":
            return f"input_blocks.{at + LAYERS}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{at}.{within}.{rest}"
    at = block * (LAYERS + 1) + index
    # the tiny network enlarges after a block without attention
    return f"output_blocks.{at + LAYERS if kind == 'upsamplers' else at}.{within}.{rest}"


def name_of_vae(name: str) -> str:
    changes = [
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_(.)", r"mid.attn_1.\1"),
        (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.0\.resnets\.(\d)", r"up.1.block.\1"),
        (r"up_blocks\.1\.resnets\.(\d)", r"up.0.block.\1"),
        (r"up_blocks\.0\.upsamplers\.0", r"up.1.upsample"),
    ]
    for ours, theirs in changes:
        name = re.sub(ours, theirs, name)
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("folder")
    tiny().save_pretrained(found)
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("file") / "tiny.safetensors"
    save_file(to_original(tiny()), found)
    return found


def drawn(model: Model) -> Tensor:
    with torch.no_grad():
        denoiser = model.denoiser("a red circle", guidance_scale=3.0)
        return model.decode(sample(denoiser, model.noise([0]), model.schedule.times(3)))


def configured(folder: Path, into: Path) -> Path:
    """The folder without its weights, as one who has a single file needs it."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            target = into / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return into


def test_a_file_draws_what_its_folder_draws(file: Path, folder: Path, tmp_path: Path) -> None:
    ours = drawn(chainrule.load(file, config=configured(folder, tmp_path)))
    assert torch.equal(ours, drawn(chainrule.load(folder)))


def test_it_is_loaded_in_any_dtype(file: Path, folder: Path) -> None:
    model = chainrule.load(file, config=folder, dtype=torch.bfloat16)
    assert {w.dtype for part in model.networks for w in part.parameters()} == {torch.bfloat16}


def test_an_inpainting_file_is_one(tmp_path: Path) -> None:
    tiny(9).save_pretrained(tmp_path / "folder")
    save_file(to_original(tiny(9)), tmp_path / "x.safetensors")
    model = chainrule.load(tmp_path / "x.safetensors", config=tmp_path / "folder")
    assert model.picture is not None
    assert torch.equal(drawn(model), drawn(chainrule.load(tmp_path / "folder")))


def test_without_a_configuration_the_cure_is_said(file: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"a Stable Diffusion 1 checkpoint, .* lacks .*: name a"
    ) as raised:
        chainrule.load(file)
    assert raised.value.field == "config"
    assert KINDS["v1"].repositories[0] in str(raised.value)


def test_the_hubs_cache_is_looked_in(file: Path, folder: Path, monkeypatch) -> None:
    asked = []

    def cached(name: str, *_) -> str | None:
        asked.append(name)
        return str(folder / "model_index.json") if name.startswith("CompVis/") else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert chainrule.load(file).name == str(file)
    assert asked == list(KINDS["v1"].repositories)
    with pytest.raises(UserError, match="nor one of that name in the hub's cache"):
        chainrule.load(file, config="no/where")


def test_a_configuration_of_another_family_is_refused(file: Path, folder: Path, tmp_path) -> None:
    config = configured(folder, tmp_path)
    index = (config / "model_index.json").read_text()
    (config / "model_index.json").write_text(
        index.replace('"StableDiffusionP', '"StableDiffusionXLP')
    )
    with pytest.raises(UserError, match="and the configuration is of a StableDiffusionXLPipeline"):
        chainrule.load(file, config=config)


def test_only_a_file_takes_a_configuration(folder: Path) -> None:
    with pytest.raises(UserError, match="has its own configuration: omit"):
        chainrule.load(folder, config=folder)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_file_that_lacks_tensors_is_refused(file: Path, folder: Path, tmp_path, data) -> None:
    """None is made up: each has its place in a network."""
    tensors = load_file(file)
    gone = data.draw(st.sampled_from(sorted(tensors)))
    path = tmp_path / "part.safetensors"
    save_file({name: value for name, value in tensors.items() if name != gone}, path)
    with pytest.raises(UserError) as raised:
        chainrule.load(path, config=folder)
    assert "\n" not in str(raised.value)


def test_a_damaged_file_is_said(file: Path, folder: Path, tmp_path: Path) -> None:
    written = file.read_bytes()
    for name, content in {
        "a": written[:5000],
        "b": b"",
        "c": b"\x80\x02junk",
        "d": written[:-9],
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"not a .safetensors file, or is damaged"):
            chainrule.load(path, config=folder)


SUFFIXES = {".ckpt": "is a pickle, .* convert it", ".pt": "is a pickle", ".gguf": "quantised .gguf"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pickles_and_quantised_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match=SUFFIXES[suffix]):
        chainrule.load(path)


OTHERS: Mapping[str, tuple[list[str], str]] = {
    "LoRA": (["lora_unet_down_blocks_0.lora_down.weight"], "is a LoRA, .* name it as lora"),
    "LoHa": (["lora_unet_mid.hada_w1_a"], "is a LoRA"),
    "embedding": (["emb_params"], "is a textual inversion, .* name it as embedding"),
    "XL embedding": (["clip_l", "clip_g"], "is a textual inversion"),
    "VAE": (["encoder.conv_in.weight", "decoder.conv_in.weight"], "is an autoencoder"),
    "VAE, original": (["first_stage_model.encoder.conv_in.weight"], "is an autoencoder"),
    "ControlNet": (["control_model.time_embed.0.weight"], "is a ControlNet"),
    "text encoder": (["text_model.embeddings.position_embedding.weight"], "is a text encoder"),
    "part": (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "one part of a diffusers"),
    "Flux": (["double_blocks.0.img_attn.qkv.weight"], "a transformer without its text encoders"),
    "network": (["model.diffusion_model.out.0.weight"], "a network without its text encoder and a"),
    "anything": (["x"], "a file of tensors of another kind"),
    "nothing": ([], "a file of tensors of another kind"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_named(tmp_path: Path, name: str) -> None:
    tensors, message = OTHERS[name]
    path = tmp_path / "file.safetensors"
    save_file({each: torch.zeros(2, 2) for each in tensors}, path)
    with pytest.raises(UserError, match=message):
        chainrule.load(path)


def test_a_whole_one_is_no_other() -> None:
    assert _name_other({name: list(v.shape) for name, v in to_original(tiny()).items()}) is None


def test_a_folder_of_files_points_to_them(file: Path) -> None:
    with pytest.raises(UserError, match=r"name the file, if 'tiny.safetensors' is a checkpoint"):
        chainrule.load(file.parent)
