"""Recognition networks are loaded in silence, whole, and without anything of theirs being run."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from chainrule import UserError
from chainrule.losses import (
    ClipText,
    load_backbone,
    load_classifier,
    load_clip,
    load_features,
    load_rater,
    load_vgg,
)
from chainrule.methods import Audit, Task
from chainrule.vision import explain, load_weights, quiet_transformers
from tiny import LABELS, load_once, save_classifier, save_clip

IMAGES = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def judge(folder: Path) -> Any:
    model = load_once()
    task = Task(model, model.denoiser("a red circle"), 0, prompts="a red circle")
    return Audit(judge=str(folder)).prepare(task)


LOADERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "classifier": ("classifier", load_classifier),
    "judge": ("classifier", judge),
    "features": ("classifier", load_features),
    "CLIP": ("clip", load_clip),
    "CLIP of a rater": ("clip", lambda folder: load_rater(clip=folder)),
    "features of a CLIP": ("clip", load_backbone),
}
"""Each way to a network of somebody else's: the kind of its folder, and what loads it."""


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier's and a CLIP's folder, as they are published."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("classifier", "clip")}
    save_classifier(folders["classifier"])
    save_clip(folders["clip"])
    return folders


@pytest.fixture
def copy(published: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        return Path(shutil.copytree(published[kind], tmp_path / kind))

    return make


def change(path: Path, **settings: Any) -> None:
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | settings))


def test_loading_a_bundled_network_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    load_clip()
    load_backbone()  # a classifier without its head, which transformers would report
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bars", [False, True])
def test_the_silence_ends(bars: bool) -> None:
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        with quiet_transformers(bars=bars):
            assert logging.get_verbosity() == logging.ERROR
            assert logging.is_progress_bar_enabled() == bars
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()


# --- nothing of a stranger's is run --------------------------------------------------------------

CLASSES = ("AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor")  # fmt: skip


def lay_a_trap(folder: Path, **config: Any) -> Path:
    """A folder whose own code, if anything imports it, makes a file."""
    caught = folder / "caught"
    code = f"open({str(caught)!r}, 'w')\n" + "".join(f"class {name}: pass\n" for name in CLASSES)
    (folder / "trap.py").write_text(code)
    names: dict[str, Any] = {name: f"trap.{name}" for name in CLASSES}
    names["AutoTokenizer"] = ["trap.AutoTokenizer", "trap.AutoTokenizer"]
    change(folder / "config.json", auto_map=names, **config)
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        change(folder / name, auto_map=names if "tokenizer" in name else names["AutoProcessor"])
    return caught


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Somebody who says yes to everything that is asked."""
    answers = io.StringIO("y\n" * 9)
    monkeypatch.setattr("sys.stdin", answers)
    return answers


@pytest.mark.parametrize("way", LOADERS)
def test_code_of_an_unknown_network_is_refused(
    way: str, copy: Callable[[str], Path], yes: io.StringIO
) -> None:
    kind, load = LOADERS[way]
    folder = copy(kind)
    caught = lay_a_trap(folder, model_type="stranger")
    with pytest.raises(UserError, match=r"code of its own, which is not run.: name one that") as at:
        load(folder)
    assert "trust_remote_code" not in str(at.value)
    assert not caught.exists()
    assert yes.tell() == 0  # nothing was asked


@pytest.mark.parametrize("way", [way for way in LOADERS if way not in ("judge", "CLIP of a rater")])
def test_a_known_network_is_loaded_by_its_own_class(
    way: str, copy: Callable[[str], Path], yes: io.StringIO
) -> None:
    kind, load = LOADERS[way]
    folder = copy(kind)
    caught = lay_a_trap(folder)
    (network,) = load(folder).networks
    assert type(network).__module__.startswith("transformers.")
    assert not caught.exists()
    assert yes.tell() == 0


class Trap:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("way", LOADERS)
def test_a_pickle_that_would_run_something_is_refused(
    way: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    kind, load = LOADERS[way]
    folder = copy(kind)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap(tmp_path / "caught")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds more than tensors.: save it as safetensors") as at:
        load(folder)
    assert "weights_only" not in str(at.value)
    assert not (tmp_path / "caught").exists()


@pytest.mark.parametrize("load", [load_vgg, load_rater, load_features])
def test_a_file_of_weights_that_would_run_something_is_refused(load: Any, tmp_path: Path) -> None:
    torch.save({"weight": Trap(tmp_path / "caught")}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"holds more than tensors.: name a safetensors file") as at:
        load(tmp_path / "weights.pth")
    assert "weights_only" not in str(at.value)
    assert not (tmp_path / "caught").exists()


@pytest.mark.parametrize("way", LOADERS)
def test_a_pickle_of_tensors_is_read(way: str, copy: Callable[[str], Path]) -> None:
    kind, load = LOADERS[way]
    if way in ("judge", "CLIP of a rater"):  # which fit nothing else that is bundled
        pytest.skip("the same loader as another's")
    folder = copy(kind)
    before = load(folder).networks[0].state_dict()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    after = load(folder).networks[0].state_dict()
    kept = {name for name in after if "pooler" not in name}  # which nothing asks
    assert all(torch.equal(after[name], before[name]) for name in kept)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("way", LOADERS)
def test_attention_from_elsewhere_is_refused(way: str, key: str, copy: Any) -> None:
    kind, load = LOADERS[way]
    folder = copy(kind)
    change(folder / "config.json", **{key: "somebody/kernel"})
    with pytest.raises(UserError, match="code from elsewhere, 'somebody/kernel', which is not run"):
        load(folder)


# --- nothing is made up --------------------------------------------------------------------------


@pytest.mark.parametrize("way", LOADERS)
def test_what_is_missing_is_not_made_up(way: str, copy: Callable[[str], Path]) -> None:
    """Every tensor but a pooler's is missed: transformers would draw it at random."""
    kind, load = LOADERS[way]
    folder = copy(kind)
    weights = load_file(folder / "model.safetensors")
    asked = [
        name for name in weights if not name.startswith("classifier.") or "features" not in way
    ]
    for name in asked[:: max(1, len(asked) // 3)]:
        rest = {key: value for key, value in weights.items() if key != name}
        save_file(rest, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=r"1 of the weights of a \w+ are missing: [a-z]"):
            load(folder)


@pytest.mark.parametrize("way", LOADERS)
def test_weights_of_another_size_are_said(way: str, copy: Callable[[str], Path]) -> None:
    kind, load = LOADERS[way]
    folder = copy(kind)
    weights = load_file(folder / "model.safetensors")
    name = next(
        key for key in weights if key.endswith("layernorm.weight") or "layer_norm1.w" in key
    )
    weights[name] = torch.zeros(99)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 of the weights of .* are of another size: "):
        load(folder)


def test_a_head_that_is_not_there_is_not_made_up(published: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"missing: classifier\.bias, classifier\.weight"):
        load_classifier(published["clip"])


def test_a_tokenizer_that_is_not_there_is_not_made_up(copy: Callable[[str], Path]) -> None:
    folder = copy("clip")
    for path in folder.glob("token*"):
        path.unlink()
    with pytest.raises(UserError, match=r"tokenizer|complete CLIP"):
        load_clip(folder)


def test_a_classifier_is_no_clip(published: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="is a ViTModel, which is not a CLIP: name one of texts"):
        load_clip(published["classifier"])


# --- damaged folders -----------------------------------------------------------------------------

DAMAGE: dict[str, tuple[str, Any, str]] = {
    "no settings": ("preprocessor_config.json", "[]", "holds no settings"),
    "no JSON": ("preprocessor_config.json", "x", "does not say what it is to be shown.: put its"),
    "no file": ("preprocessor_config.json", None, "does not say what it is to be shown.: put its"),
    "no size": ("preprocessor_config.json", '{"size": "x"}', "names no size of images"),
    "no sides": ("preprocessor_config.json", '{"size": {"height": 8}}', "names no size of images"),
    "grey": ("preprocessor_config.json", '{"size": 8, "image_mean": [0.5]}', "not of three colours"),
    "no spread": (
        "preprocessor_config.json",
        '{"size": 8, "image_mean": [0, 0, 0], "image_std": [0, 0, 0]}',
        "image_std is .*: numbers above 0",
    ),
    "a processor of its own": (
        "preprocessor_config.json",
        '{"size": 8, "image_processor_type": "Mine", "auto_map": {"AutoImageProcessor": "a.Mine"}}',
        "its image processor .'Mine'. is code of its own, which is not run",
    ),
    "a processor of its own, unnamed": (
        "preprocessor_config.json",
        '{"size": 8, "auto_map": {"AutoImageProcessor": "a.Mine"}}',
        "its image processor .'a.Mine'. is code of its own, which is not run",
    ),
    "no kind": ("config.json", "{}", "cannot be loaded as"),
    "a list": ("config.json", "[]", "cannot be loaded as"),
    "a cut configuration": ("config.json", '{"model_type"', "cannot be loaded as"),
    "a wrong value": ("config.json", '{"model_type": "vit", "hidden_size": "a"}', "cannot be loaded"),
    "quantised": (
        "config.json",
        '{"model_type": "vit", "quantization_config": {"quant_method": "bitsandbytes"}}',
        "its weights are quantised.: name one in float32",
    ),
    "cut weights": ("model.safetensors", b"\x99" * 99, "its weights are damaged.: fetch them"),
    "no weights": ("model.safetensors", None, "cannot be loaded as"),
    "an adapter": ("adapter_config.json", '{"base_model_name_or_path": "x"}', "an adapter of another"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("way", LOADERS)
def test_a_damaged_folder_is_said_in_a_short_sentence(
    way: str, case: str, copy: Callable[[str], Path]
) -> None:
    kind, load = LOADERS[way]
    name, content, message = DAMAGE[case]
    folder = copy(kind)
    if content is None:
        os.remove(folder / name)
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as at:
        load(folder)
    assert len(str(at.value)) < 500
    assert "\n" not in str(at.value)


ASK: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "classifier": ("classifier", lambda folder: load_classifier(folder)(IMAGES)),
    "features": ("classifier", lambda folder: load_backbone(folder)(IMAGES)),
    "CLIP": ("clip", lambda folder: ClipText(load_clip(folder), "red")(IMAGES)),
}


@pytest.mark.parametrize("way", ASK)
def test_a_size_that_the_network_does_not_take_is_said(
    way: str, copy: Callable[[str], Path]
) -> None:
    kind, ask = ASK[way]
    folder = copy(kind)
    change(folder / "preprocessor_config.json", size={"height": 12, "width": 12})
    with pytest.raises(UserError, match=r"does not take what its preprocessor_config.json says"):
        ask(folder)


# --- names ---------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub, which cannot be reached, was asked for; its cache is empty."""
    names: list[str] = []

    def model_info(self: HfApi, name: str, **_: object) -> None:
        names.append(name)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    return names


@pytest.mark.parametrize("way", LOADERS)
def test_the_hub_is_asked_once_and_only_for_names(way: str, asked: list[str], capfd: Any) -> None:
    load = LOADERS[way][1]
    for name in ("nowhere", "a/b/c"):
        with pytest.raises(UserError, match=f"no folder '{name}' here: name a folder or owner/na"):
            load(name)  # type: ignore[arg-type]
    assert asked == []
    with pytest.raises(UserError, match=r"and the hub cannot be asked \(Name or service"):
        load("nobody/nothing")  # type: ignore[arg-type]
    assert asked == ["nobody/nothing"]
    assert capfd.readouterr() == ("", "")


def test_a_network_in_the_cache_is_not_asked_for(
    published: dict[str, Path], tmp_path: Path, asked: list[str]
) -> None:
    there = tmp_path / "hub" / "models--some--body"
    shutil.copytree(published["classifier"], there / "snapshots" / "a1")
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text("a1")
    assert load_classifier("some/body").labels == LABELS
    assert asked == []
    (there / "snapshots" / "a1" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="the hub cannot be asked"):
        load_classifier("some/body")


def test_long_messages_of_others_are_cut() -> None:
    reason, _ = explain(ValueError("x" * 200_000 + "\nmore"))
    assert len(reason) < 210


# --- files of weights ----------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda path: None, "there is no file"),
    "a folder": (lambda path: path.mkdir(), "is not a file"),
    "a pipe": (lambda path: os.mkfifo(path), "is not a file"),
    "no bytes": (lambda path: path.write_bytes(b""), "cannot be read as the weights of a VGG"),
    "text": (lambda path: path.write_text("weights"), "cannot be read as the weights of a VGG"),
    "numbers": (lambda path: torch.save({"a": torch.ones(1), "b": 3}, path), "no state dict"),
    "a tensor": (lambda path: torch.save(torch.ones(1), path), "holds no state dict"),
    "no tensors": (lambda path: torch.save({}, path), "is empty"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("case", BAD)
def test_a_file_that_holds_no_weights_is_said(case: str, suffix: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    path = tmp_path / f"weights{suffix}"
    make(path)
    pickled = case in ("numbers", "a tensor", "no tensors")
    with pytest.raises(
        UserError, match="cannot be read" if pickled and suffix != ".pth" else message
    ):
        load_weights(path, "a VGG")
