"""Folders as they come: damaged, quantised, with code of their own, of other pipelines."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import chainrule
from chainrule import UserError
from chainrule.models import FAMILIES
from chainrule.models.folders import CheckpointWarning
from tiny import SCHEDULERS, family, pipeline, save_family

PARTS = ("unet", "vae", "text_encoder")
FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    *(
        f"{part}/{name}"
        for part in ("unet", "vae")
        for name in ("config.json", "diffusion_pytorch_model.safetensors")
    ),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    pipeline(SCHEDULERS["sd1"]).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def load_or_sentence(folder: Path) -> chainrule.Model | str:
    """The model, or in one line why there is none."""
    try:
        return chainrule.load(folder)
    except UserError as error:
        sentence = str(error)
    assert "\n" not in sentence
    return sentence


def weights(model: chainrule.Model) -> dict[str, torch.Tensor]:
    return {
        f"{i}.{k}": v for i, part in enumerate(model.networks) for k, v in part.state_dict().items()
    }


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.floats(), st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_folder_is_refused_or_loads_the_same(whole: Path, tmp_path: Path, data) -> None:
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    path = folder / data.draw(st.sampled_from(FILES))
    kinds = ["delete", "truncate", "bytes", "empty", "swap"]
    kinds += ["value"] * 5 if path.suffix == ".json" else ["tensor"] * 3
    how = data.draw(st.sampled_from(kinds))
    written = path.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(written[: data.draw(st.integers(0, len(written) - 1))])
    elif how == "bytes":
        path.write_bytes(data.draw(st.binary(max_size=64)))
    elif how == "empty":
        path.write_text(data.draw(st.sampled_from(["", "{}", "[]", "null", "1", "[" * 100000])))
    elif how == "swap":
        path.write_bytes((folder / data.draw(st.sampled_from(FILES))).read_bytes())
    elif how == "tensor":
        tensors = load_file(path)
        name = data.draw(st.sampled_from(sorted(tensors)))
        del tensors[name]
        save_file(tensors, path, {"format": "pt"})
    else:
        values = json.loads(written)
        name = data.draw(st.sampled_from(sorted(values)))
        path.write_text(json.dumps(values | {name: data.draw(JUNK)}))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = load_or_sentence(folder)
    if isinstance(model, str):
        assert len(model) < 1000 + len(str(folder))
        return
    if any(isinstance(each.message, CheckpointWarning) for each in told):
        return
    expected, found = weights(chainrule.load(whole)), weights(model)
    assert set(expected) == set(found)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("part", PARTS)
def test_missing_tensors_are_named(folder: Path, part: str) -> None:
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    gone = sorted(tensors)[3]
    save_file(
        {name: value for name, value in tensors.items() if name != gone}, path, {"format": "pt"}
    )
    with pytest.raises(
        UserError, match=rf"1 of the tensors of the {part} of .* missing \(.*{gone.split('.')[-2]}"
    ):
        chainrule.load(folder)


def test_tensors_without_a_place_are_said(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"more.weight": torch.ones(2)}, path, {"format": "pt"})
    with pytest.warns(CheckpointWarning, match=r"holds 1 tensors .* not used \(more.weight\)"):
        chainrule.load(folder)


@pytest.mark.parametrize("part", PARTS)
def test_quantised_weights_are_refused(folder: Path, part: str) -> None:
    change(folder / part / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(
        UserError, match=rf"the {part} of .* is quantised \(bitsandbytes\), which is not supp"
    ):
        chainrule.load(folder)


def as_variant(folder: Path, variant: str, parts=PARTS) -> None:
    for part in parts:
        (path,) = (folder / part).glob("*.safetensors")
        path.rename(path.with_suffix(f".{variant}.safetensors"))


def test_the_variant_that_is_there_is_named(folder: Path, whole: Path) -> None:
    as_variant(folder, "fp16")
    with pytest.raises(
        UserError, match="as the variant 'fp16' only: set variant to 'fp16'"
    ) as raised:
        chainrule.load(folder)
    assert raised.value.field == "variant"
    with pytest.raises(UserError, match="no variant 'ema': there is 'fp16'"):
        chainrule.load(folder, variant="ema")
    found, expected = (
        weights(chainrule.load(folder, variant="fp16")),
        weights(chainrule.load(whole)),
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(UserError, match="no variant 'fp16': omit it"):
        chainrule.load(whole, variant="fp16")


def test_parts_without_the_variant_are_read_as_they_are(folder: Path) -> None:
    as_variant(folder, "fp16", ("unet",))
    assert chainrule.load(folder, variant="fp16").networks


def test_it_is_what_diffusers_reads(whole: Path) -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(whole, safety_checker=None)
    model = chainrule.load(whole)
    for ours, other in zip(
        model.networks, (theirs.unet, theirs.vae, theirs.text_encoder), strict=True
    ):
        expected = other.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())


CODE = "from pathlib import Path\nPath(__file__).parent.joinpath('ran').touch()\nclass X: pass\n"
HOOKS = [
    {"_class_name": ["pipeline", "StableDiffusionPipeline"]},
    {"_class_name": ["pipeline", "X"]},
    {"unet": ["mine", "X"]},
    {"unet": ["os", "system"]},
    {"unet": ["diffusers", "DiffusionPipeline"]},
    {"unet": ["diffusers", "AutoModel"]},
    {"text_encoder": ["transformers", "AutoModel"]},
    {"tokenizer": ["transformers", "AutoTokenizer"]},
    {"scheduler": ["mine", "X"]},
    {"unet": ["diffusers.utils", "import_utils"]},
]


@pytest.mark.parametrize("index", HOOKS, ids=str)
def test_code_in_a_folder_is_never_run(folder: Path, index: dict, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    change(folder / "model_index.json", **index)
    for part in (folder, *(folder / each for each in (*PARTS, "scheduler", "tokenizer"))):
        for name in ("pipeline", "mine", "X"):
            (part / f"{name}.py").write_text(CODE)
    for part in ("text_encoder", "unet"):
        auto = {"AutoModel": "mine.X", "AutoConfig": "mine.X"}
        change(folder / part / "config.json", auto_map=auto)
    change(
        folder / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.X", None]}
    )
    load_or_sentence(folder)
    assert not list(folder.rglob("ran"))


PIPELINES = sorted(name for name in dir(diffusers) if name.endswith("Pipeline"))


@pytest.mark.parametrize("name", [*PIPELINES, "NoSuchPipeline", ""])
def test_every_pipeline_is_a_model_or_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    for each in whole.iterdir():
        if each.is_dir():
            (tmp_path / each.name).symlink_to(each)
    shutil.copy(whole / "model_index.json", tmp_path)
    change(tmp_path / "model_index.json", _class_name=name)
    model = load_or_sentence(tmp_path)
    if isinstance(model, str):
        assert name in FAMILIES or "is not supported" in model
    else:
        assert name in FAMILIES
        assert model.text(["red"])[0].shape[0] == 1


ALIKE = {
    "StableDiffusionImg2ImgPipeline": "Stable Diffusion 1.x",
    "StableDiffusionXLImg2ImgPipeline": "Stable Diffusion XL",
    "StableDiffusion3Img2ImgPipeline": "Stable Diffusion 3",
}


@pytest.mark.parametrize("name", ALIKE)
def test_pipelines_of_the_same_parts_are_the_same_model(tmp_path: Path, name: str) -> None:
    save_family(ALIKE[name], tmp_path)
    x, models = None, []
    for kind in (None, name):
        if kind is not None:
            change(tmp_path / "model_index.json", _class_name=kind)
        models.append(chainrule.load(tmp_path))
        x = models[0].noise([0])
    one, other = (model.denoiser("red", guidance_scale=1.0)(x, 500.0).eps for model in models)
    assert torch.equal(one, other)


TOLD = [
    ("Stable Diffusion 1.x", {"num_class_embeds": 3}, "num_class_embeds=3"),
    ("Stable Diffusion 1.x", {"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
    ("Stable Diffusion 1.x", {"addition_embed_type": "text"}, "addition_embed_type='text'"),
    ("Stable Diffusion 1.x", {"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type='text_"),
    ("Stable Diffusion XL", {"addition_embed_type": None}, "addition_embed_type=None"),
]


@pytest.mark.parametrize(("name", "config", "message"), TOLD, ids=str)
def test_networks_that_are_told_more_are_refused(name: str, config: dict, message: str) -> None:
    found = family(name)
    found.unet.register_to_config(**config)
    with pytest.raises(UserError, match=f"told other things than a text .{message}"):
        chainrule.load(found)


def test_the_refiner_is_refused_by_name() -> None:
    plain = family("Stable Diffusion XL")
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline(
        **plain.components, requires_aesthetics_score=True, add_watermarker=False
    )
    with pytest.raises(UserError, match=r"is a refiner of Stable Diffusion XL.*choose the base"):
        chainrule.load(refiner)


def test_xl_whose_text_encoders_were_dropped_is_no_refiner() -> None:
    found = family("Stable Diffusion XL")
    told = chainrule.load(found).text(["red"])
    found.text_encoder = found.text_encoder_2 = found.tokenizer = found.tokenizer_2 = None
    model = chainrule.load(found)
    assert model.denoiser(told, guidance_scale=1.0)(model.noise([0]), 500.0).eps.isfinite().all()


@pytest.mark.parametrize("before", [logging.INFO, logging.WARNING])
def test_loading_is_quiet_and_leaves_the_libraries_as_they_were(folder, capfd, before) -> None:
    logs = (diffusers.utils.logging, transformers.utils.logging)
    for log in logs:
        log.set_verbosity(before)
        log.enable_progress_bar()
    change(folder / "unet" / "config.json", not_a_setting=1)
    change(
        folder / "model_index.json",
        not_a_part=["diffusers", "UNet2DModel"],
        requires_safety_checker=True,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chainrule.load(folder)
            with pytest.raises(UserError):
                chainrule.load(folder, variant="none")
        assert capfd.readouterr() == ("", "")
        for log in logs:
            assert log.get_verbosity() == before
            assert log.is_progress_bar_enabled()
    finally:
        for log in logs:
            log.set_verbosity(logging.WARNING)
