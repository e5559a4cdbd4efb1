"""LoRA files that people bring: every format, a scale each, and what was applied is said."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import chainrule
from chainrule import UserError
from chainrule.models import Model, parse_lora
from chainrule.models._extras import add_extras
from tiny import family

REAL = Path("/work/shared/files/loras")
RANK, ALPHA = 2, 3.0
KINDS = ("to_q", "to_v", "q_proj", "out_proj")
Change = dict[str, tuple[Tensor, Tensor]]
"""By module, as named in the whole pipeline: down (r, in) and up (out, r)."""
Tensors = dict[str, Tensor]


def change(pipeline, parts: tuple[str, ...]) -> Change:
    """Random changes of some attention layers of a pipeline's parts."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for part in parts:
        for name, module in getattr(pipeline, part).named_modules():
            if isinstance(module, nn.Linear) and name.split(".")[-1] in KINDS:
                found[f"{part}.{name}"] = (
                    torch.randn(RANK, module.in_features, generator=generator),
                    torch.randn(module.out_features, RANK, generator=generator),
                )
    assert found
    return found


def apply_by_hand(pipeline, changes: Change, scale: float) -> None:
    """W + scale B A."""
    for name, (down, up) in changes.items():
        part, _, rest = name.partition(".")
        with torch.no_grad():
            getattr(pipeline, part).get_submodule(rest).weight += scale * up @ down


def as_peft(changes: Change) -> Tensors:
    return {
        f"{name.replace('text_encoder.', 'text_encoder.text_model.')}.lora_{letter}.weight": value
        for name, pair in changes.items()
        for letter, value in zip("AB", pair, strict=True)
    }


def as_old(changes: Change) -> Tensors:
    """As diffusers wrote it for the U-Net alone, without saying that it is the U-Net's."""
    found = {}
    for name, pair in changes.items():
        where, _, layer = name.removeprefix("unet.").rpartition(".")
        for way, value in zip(("down", "up"), pair, strict=True):
            found[f"{where}.processor.{layer}_lora.{way}.weight"] = value
    return found


def as_old_with_prefix(changes: Change) -> Tensors:
    return {f"unet.{key}": value for key, value in as_old(changes).items()}


def as_kohya(changes: Change) -> Tensors:
    """A1111's and kohya's; its scale is alpha / rank."""
    found = {}
    for name, (down, up) in changes.items():
        part, _, rest = name.partition(".")
        several = any(key.startswith("text_encoder_2.") for key in changes)
        prefix = {"unet": "lora_unet", "text_encoder_2": "lora_te2"}.get(
            part, "lora_te1_text_model" if several else "lora_te_text_model"
        )
        stem = f"{prefix}_{rest.replace('.', '_')}"
        found[f"{stem}.lora_down.weight"] = down
        found[f"{stem}.lora_up.weight"] = up
        found[f"{stem}.alpha"] = torch.tensor(ALPHA)
    return found


FORMATS: dict[str, tuple[str, tuple[str, ...], Callable[[Change], Tensors], float]] = {
    "peft": ("Stable Diffusion 1.x", ("unet", "text_encoder"), as_peft, 1.0),
    "diffusers, old": ("Stable Diffusion 1.x", ("unet",), as_old_with_prefix, 1.0),
    "diffusers, without unet.": ("Stable Diffusion 1.x", ("unet",), as_old, 1.0),
    "kohya": ("Stable Diffusion 1.x", ("unet", "text_encoder"), as_kohya, ALPHA / RANK),
    "text encoder alone": ("Stable Diffusion 1.x", ("text_encoder",), as_kohya, ALPHA / RANK),
    "XL, peft": ("Stable Diffusion XL", ("unet",), as_peft, 1.0),
    "XL, kohya": (
        "Stable Diffusion XL",
        ("unet", "text_encoder", "text_encoder_2"),
        as_kohya,
        ALPHA / RANK,
    ),
    "SD 3, peft": ("Stable Diffusion 3", ("transformer",), as_peft, 1.0),
}


def predict(model: Model) -> Tensor:
    with torch.no_grad():
        return model.denoiser("a red circle")(model.noise([0]), 500.0).x0


def write(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    else:
        torch.save(dict(tensors), path)
    return path


def load_into(name: str, *loras) -> tuple[Model, tuple[str, ...], list[str]]:
    """A model with LoRAs, the notes, and the warnings."""
    pipeline = family(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notes = add_extras(pipeline, (), loras)
    said = [str(each.message) for each in caught if "tensors" in str(each.message)]
    return chainrule.load(pipeline, size=(16, 16)), notes, said


@pytest.mark.parametrize(
    ("form", "scale", "suffix"),
    [
        *((form, 0.5, ".safetensors") for form in FORMATS),
        *(("kohya", scale, ".bin") for scale in (1.0, -1.5, 0.0)),
    ],
)
def test_it_is_what_the_weights_changed_by_hand_are(
    tmp_path: Path, form: str, scale: float, suffix: str
) -> None:
    name, parts, convert, own = FORMATS[form]
    by_hand = family(name)
    changes = change(by_hand, parts)
    tensors = convert(changes)
    plain = predict(chainrule.load(by_hand, size=(16, 16)))
    apply_by_hand(by_hand, changes, scale * own)
    expected = predict(chainrule.load(by_hand, size=(16, 16)))
    path = write(tmp_path / f"mine{suffix}", tensors)
    state = torch.get_rng_state()
    model, notes, said = load_into(name, f"{path}:{scale}")
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(predict(model), expected, rtol=1e-4, atol=1e-4)
    assert (scale == 0.0) == torch.allclose(expected, plain)
    count = 2 * len(changes)
    assert notes == (f"LoRA: {count} of {count} tensors of {path}, scale {scale:g}",)
    assert not said


def test_several_have_a_scale_each(tmp_path: Path) -> None:
    by_hand = family("Stable Diffusion 1.x")
    one, two = (change(by_hand, (part,)) for part in ("unet", "text_encoder"))
    paths = [
        write(tmp_path / f"{i}.safetensors", as_peft(each)) for i, each in enumerate((one, two))
    ]
    apply_by_hand(by_hand, one, 0.5)
    apply_by_hand(by_hand, two, 2.0)
    model, *_ = load_into("Stable Diffusion 1.x", (paths[0], 0.5), f"{paths[1]}:2")
    expected = predict(chainrule.load(by_hand))
    torch.testing.assert_close(predict(model), expected, rtol=1e-4, atol=1e-4)


def misname(tensors: Tensors, share: float) -> Tensors:
    """Some of the modules are called so that no model has them."""
    stems = sorted({key.split(".lora")[0].removesuffix(".alpha") for key in tensors})
    lost = stems[: round(share * len(stems))]
    return {
        f"{key.replace('blocks', 'blockz', 1)}" if key.startswith(tuple(lost)) else key: value
        for key, value in tensors.items()
    }


@pytest.mark.parametrize("convert", [as_kohya, as_peft, as_old_with_prefix])
def test_what_lands_in_part_is_said(tmp_path: Path, convert) -> None:
    tensors = convert(change(family("Stable Diffusion 1.x"), ("unet",)))
    count = sum(not key.endswith("alpha") for key in tensors)
    lost = misname(tensors, 0.5)
    missing = sum("blockz" in key and not key.endswith("alpha") for key in lost)
    assert 0 < missing < count
    path = write(tmp_path / "half.safetensors", lost)
    _, notes, (said,) = load_into("Stable Diffusion 1.x", path)
    assert notes == (f"LoRA: {count - missing} of {count} tensors of {path}, scale 1",)
    assert said.startswith(
        f"{missing} of {count} tensors of {path} were not applied: their modules"
    )
    assert "blockz" in said
    # a text encoder's part, for a model that has it not
    transformer = {"text_encoder_3.block.q.lora_A.weight": torch.ones(2, 8)}
    transformer["text_encoder_3.block.q.lora_B.weight"] = torch.ones(8, 2)
    path = write(tmp_path / "more.safetensors", tensors | transformer)
    if convert is not as_kohya:
        assert load_into("Stable Diffusion 1.x", path)[2][0].startswith(f"2 of {count + 2} tensors")


@pytest.mark.parametrize("convert", [as_kohya, as_peft, as_old_with_prefix])
def test_what_lands_nowhere_is_refused(tmp_path: Path, convert) -> None:
    tensors = misname(convert(change(family("Stable Diffusion 1.x"), ("unet",))), 1.0)
    path = write(tmp_path / "none.safetensors", tensors)
    with pytest.raises(UserError, match=r"nothing of .*none.safetensors was applied: .*blockz"):
        load_into("Stable Diffusion 1.x", path)


def test_the_magnitudes_of_a_dora_are_not_left_out_in_silence(tmp_path: Path) -> None:
    tensors = as_kohya(change(family("Stable Diffusion 1.x"), ("unet",)))
    stem = next(iter(tensors)).split(".")[0]
    path = write(tmp_path / "dora.safetensors", tensors | {f"{stem}.dora_scale": torch.ones(8, 1)})
    (said,) = load_into("Stable Diffusion 1.x", path)[2]
    assert "1 of" in said
    assert "a DoRA's magnitudes" in said


UNREAD = {
    "cloneofsimo": ("unet:0:down", "in cloneofsimo/lora's format"),
    "LoHa": ("lora_unet_down_blocks_0.hada_w1_a", "a LoHa"),
    "LoKr": ("lora_unet_down_blocks_0.lokr_w1", "a LoKr"),
    "IA3": ("lora_unet_down_blocks_0.on_input", "an IA3"),
    "OFT": ("lora_unet_down_blocks_0.oft_blocks", "an OFT"),
    "differences": ("lora_unet_down_blocks_0.diff", "whole differences"),
    "a word": ("emb_params", "is a textual inversion, not a LoRA"),
    "a checkpoint": ("model.diffusion_model.out.weight", "a whole checkpoint"),
    "peft's own": ("base_model.model.x.lora_A.weight", "in peft's own format"),
    "anything": ("layer.weight", "it holds layer"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_what_diffusers_does_not_read_is_called_by_its_name(tmp_path: Path, kind: str) -> None:
    key, what = UNREAD[kind]
    path = write(tmp_path / "x.safetensors", {key: torch.ones(2, 8)})
    with pytest.raises(UserError, match=what) as refusal:
        load_into("Stable Diffusion 1.x", path)
    assert refusal.value.field == "loras"


def broken(edit: Callable[[Tensors], object]) -> Tensors:
    tensors = as_peft(change(family("Stable Diffusion 1.x"), ("unet", "text_encoder")))
    edit(tensors)
    return tensors


UNET, TEXT = (
    f"{part}.lora_{{}}.weight"
    for part in (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    )
)
BROKEN = {
    "other sizes": (
        lambda t: t.update({UNET.format("A"): torch.ones(2, 99)}),
        r"for another model: at down_blocks\S*to_q it has \[2, 99\], this one \[2, 8\]",
    ),
    "other sizes of the text encoder": (
        lambda t: t.update({TEXT.format("A"): torch.ones(2, 99)}),
        "for another model",
    ),
    "no up": (lambda t: t.pop(UNET.format("B")), r"is broken: it lacks .*to_q.lora_B"),
    "no down": (lambda t: t.pop(TEXT.format("A")), r"is broken: it lacks .*q_proj.lora_A"),
    "two ranks": (
        lambda t: t.update({UNET.format("B"): torch.ones(8, 5)}),
        r"cannot be multiplied .*\[2, 8\] and \[8, 5\]",
    ),
    "not a number": (
        lambda t: t.update({UNET.format("B"): torch.full((8, 2), math.nan)}),
        "infinite or not numbers",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_does_not_fit_is_said_in_a_sentence(tmp_path: Path, kind: str) -> None:
    edit, message = BROKEN[kind]
    with pytest.raises(UserError, match=message):
        load_into("Stable Diffusion 1.x", write(tmp_path / "x.safetensors", broken(edit)))


@pytest.mark.parametrize("name", ["PixArt-alpha", "DiT (classes)", "Pixels, told nothing"])
def test_families_without_one_are_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "x.safetensors", {"unet.a.lora_A.weight": torch.ones(2, 8)})
    with pytest.raises(UserError, match="Pipeline does not take a LoRA"):
        load_into(name, path)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no")
    (tmp_path / "a.bin").write_bytes(b"no")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("a.safetensors", "cannot be loaded as a LoRA"),
        ("a.bin", "cannot be loaded as a LoRA"),
        ("b.bin", "there is no file"),
        ("empty", "has no file that could be a LoRA"),
    ):
        with pytest.raises(UserError, match=message):
            load_into("Stable Diffusion 1.x", tmp_path / name)


def test_without_peft_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers.utils.is_peft_available", lambda: False)
    path = write(tmp_path / "x.safetensors", {"unet.a.lora_A.weight": torch.ones(2, 8)})
    with pytest.raises(UserError, match="a LoRA needs peft: pip install"):
        load_into("Stable Diffusion 1.x", path)


# --- how it is named ----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_scale_comes_back_as_it_was(scale: float) -> None:
    assert parse_lora(f"a.safetensors:{scale!r}") == (Path("a.safetensors"), scale)
    assert parse_lora(("a.safetensors", scale)) == (Path("a.safetensors"), scale)
    written = chainrule.runs.Checkpoint(lora=[("a.safetensors", scale)])
    assert parse_lora(written.lora[0]) == (Path("a.safetensors"), scale)
    again = chainrule.runs.Checkpoint.model_validate_json(written.model_dump_json())
    assert again == written


def test_a_file_of_the_whole_name_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "style:0.5"
    assert parse_lora(str(path)) == (tmp_path / "style", 0.5)
    path.touch()
    assert parse_lora(str(path)) == (path, 1.0)
    assert parse_lora(f"{path}:2") == (path, 2.0)
    assert parse_lora(r"C:\loras\a.safetensors") == (Path(r"C:\loras\a.safetensors"), 1.0)
    with pytest.raises(UserError, match=r"has no scale: write a number"):
        parse_lora(f"{path}:strong")


@pytest.mark.parametrize("value", [None, 3, "", ("a",), ("a", "b"), ("a", True), (1, 2.0), ["a"]])
def test_what_names_no_lora_is_refused(value) -> None:
    with pytest.raises(UserError, match="is not a LoRA"):
        parse_lora(value)


@pytest.mark.parametrize("value", ["a:nan", "a:inf", ("a", math.nan), ("a", -math.inf)])
def test_a_scale_is_a_number(value) -> None:
    with pytest.raises(UserError, match="has no scale"):
        parse_lora(value)


# --- real files ---------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not on this machine")
def test_the_real_one_of_another_format_is_called_by_its_name() -> None:
    with pytest.raises(UserError, match="in cloneofsimo/lora's format"):
        load_into("Stable Diffusion 1.x", REAL / "disney.safetensors")
    assert "unet:0:up" in load_file(REAL / "disney.safetensors")
