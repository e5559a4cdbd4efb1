"""A picture carries the run that made it."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from chainrule.errors import LONGEST as LONGEST_ERROR
from chainrule.errors import UserError
from chainrule.images import to_pil
from chainrule.losses.registry import LOSSES
from chainrule.methods import METHODS
from chainrule.runs import (
    Checkpoint,
    Iteration,
    execute,
    find_run,
    list_strange,
    parse_spec,
    read_origin,
)
from chainrule.runs.origin import LONGEST
from chainrule.specs import NETWORK, _mentions
from command import images
from conftest import tiny_model

MODEL = tiny_model()
DOODL = {"kind": "doodl", "iterations": 3, "steps": 2, "crops": 2, "mix": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    to_pil(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))).save(
        folder / "photo.png"
    )
    spec = parse_spec(
        {
            "inputs": {"photo": folder / "photo.png", "prompt": "a dog", "seed": (0, 7)},
            "losses": [{"kind": "picture", "target": folder / "photo.png"}],
            "methods": [
                {"kind": "sdedit", "steps": 2},
                {"kind": "sdedit", "steps": 2, "strength": 1.0},
                {**DOODL, "iterations": 1},
            ],
        }
    )
    list(execute(spec, folder / "run", MODEL))
    (folder / "photo.png").unlink()
    return folder / "run"


@pytest.mark.parametrize(
    "name", ["sdedit-strength=0.6-0007", "sdedit-strength=1.0-0000", "doodl-0007"]
)
def test_an_image_makes_its_method_again(made: Path, name: str, tmp_path: Path) -> None:
    origin = read_origin(made / "images" / f"{name}.png")
    assert f"{origin.seed:04d}" == name[-4:]
    again = find_run(made / "images" / f"{name}.png")
    assert len(again.methods) == 1
    list(execute(again, tmp_path / "again", MODEL))
    label = name[:-5]
    found, before = images(tmp_path / "again"), images(made)
    for seed in ("0000", "0007"):
        assert found[f"{label.split('-')[0]}-{seed}.png"] == before[f"{label}-{seed}.png"]


@pytest.mark.parametrize("name", ["contact-sheet.png", "loss.png"])
def test_a_picture_of_all_makes_all_of_it_again(made: Path, name: str, tmp_path: Path) -> None:
    assert read_origin(made / name).label is None
    list(execute(find_run(made / name), tmp_path / "again", MODEL))
    assert images(tmp_path / "again") == images(made)
    one, other = (Image.open(folder / "contact-sheet.png") for folder in (made, tmp_path / "again"))
    assert one.tobytes() == other.tobytes()


def test_pictures_of_a_stopped_run_make_what_they_show(tmp_path: Path) -> None:
    """The two iterations that were done, not the four that were asked for."""
    spec = parse_spec(
        {
            "inputs": {"prompt": "a dog", "seed": (0, 7)},
            "losses": [{"kind": "brightness", "target": 0.9}],
            "methods": [{**DOODL, "crops": 0}, DOODL],
        }
    )
    events = execute(spec, tmp_path / "run", MODEL)
    for event in events:
        if isinstance(event, Iteration) and event.done == 2:
            events.close()  # type: ignore[attr-defined]
    for name in ("images/doodl-crops=0-0007.png", "contact-sheet.png"):
        again = find_run(tmp_path / "run" / name)
        assert list(again.stop_after.values()) == [2]
        list(execute(again, tmp_path / name, MODEL))
        assert sorted(images(tmp_path / name).values()) == sorted(images(tmp_path / "run").values())


def write(path: Path, text: str) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("chainrule", text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def changed(made: Path, **changes: Any) -> str:
    origin = read_origin(made / "images" / "doodl-0007.png")
    return json.dumps(json.loads(origin.model_dump_json()) | changes)


def test_what_carries_no_run_is_refused(made: Path, tmp_path: Path) -> None:
    cure = "name a picture that chainrule wrote"
    with pytest.raises(UserError, match=rf"there is no file nowhere.png: {cure}"):
        find_run(Path("nowhere.png"))
    with pytest.raises(UserError, match=rf"test_origin.py is not an image: {cure}"):
        find_run(Path(__file__))
    with pytest.raises(UserError, match=rf" is a folder: {cure}"):
        find_run(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    with pytest.raises(UserError, match=rf"other.png carries no settings: {cure}"):
        find_run(tmp_path / "other.png")
    texts = {
        "no": "is not of this version of chainrule",
        "{}": "is not of this version of chainrule",
        "x" * (LONGEST + 1): "too many for settings",
        changed(
            made, run={"version": 1}
        ): r"this picture's run .* of another version of chainrule \(format 1, not 2\)",
        changed(
            made, run={"version": 2, "methods": [{"kind": "gone"}]}
        ): "there is no method 'gone'",
        changed(made, digests={}): "names files without their digests: name another picture",
        changed(
            made, label="magic"
        ): "this picture's run has no method 'magic': name another picture",
    }
    for text, message in texts.items():
        with pytest.raises(UserError, match=message) as caught:
            find_run(write(tmp_path / "picture.png", text))
        assert "\n" not in str(caught.value)


def test_files_that_are_elsewhere_can_be_named(made: Path, tmp_path: Path) -> None:
    """By whatever name: they are known by what is in them, and so is what is not them."""
    moved, other = tmp_path / "moved.png", tmp_path / "other.png"
    shutil.copyfile(made / "inputs" / "photo.png", moved)
    to_pil(torch.zeros(3, 8, 8)).save(other)
    alone = shutil.copyfile(made / "images" / "doodl-0007.png", tmp_path / "doodl.png")
    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "copy" / "inputs" / "photo.png").unlink()
    for picture in (Path(alone), tmp_path / "copy" / "images" / "doodl-0007.png"):
        with pytest.raises(UserError, match=r"inputs/photo.png.*, or say where the same") as caught:
            find_run(picture)
        assert caught.value.field == "input"
        with pytest.raises(UserError, match=r"was not made of .*other.png: name the very file"):
            find_run(picture, inputs=[moved, other])
        again = find_run(picture, inputs=[moved])
        assert again.inputs.photo == again.losses[0].target == moved
    for nothing in ("nowhere.png", "."):
        with pytest.raises(UserError, match=rf"there is no file {nothing}: name one"):
            find_run(alone, inputs=[nothing])
    list(execute(again, tmp_path / "again", MODEL))
    name = "doodl-0007.png"
    assert images(tmp_path / "again")[name] == images(made)[name]


def test_its_files_are_looked_for_in_its_own_folder_only(made: Path, tmp_path: Path) -> None:
    shutil.copyfile(made / "images" / "doodl-0007.png", tmp_path / "doodl.png")
    with pytest.raises(
        UserError, match=r"was made of inputs/photo.png, which a picture does not carry: name the"
    ):
        find_run(tmp_path / "doodl.png")
    shutil.copytree(made, tmp_path / "copy")
    assert (
        find_run(tmp_path / "copy" / "contact-sheet.png").inputs.photo
        == tmp_path / "copy" / "inputs" / "photo.png"
    )
    to_pil(torch.zeros(3, 8, 8)).save(tmp_path / "copy" / "inputs" / "photo.png")
    with pytest.raises(
        UserError, match=r"inputs/photo.png is missing, or not what it was: put it back"
    ):
        find_run(tmp_path / "copy" / "images" / "doodl-0007.png")
    (tmp_path / "copy" / "inputs" / "photo.png").unlink()
    with pytest.raises(
        UserError, match=r"inputs/photo.png is missing, or not what it was: put it back"
    ):
        find_run(tmp_path / "copy" / "contact-sheet.png")


# --- strangers' pictures ------------------------------------------------------------------------

PLAIN = {"version": 2, "methods": [{"kind": "plain", "steps": 1}]}
CLASSIFIER = {"kind": "classifier", "target": "heart"}
STRANGE: dict[str, dict[str, Any]] = {
    "/home/me/model": {"checkpoint": {"model": "/home/me/model"}},
    "them/model": {"checkpoint": {"model": "them/model"}},
    "them/config": {"checkpoint": {"config": "them/config"}},
    "/home/me/words.bin": {"checkpoint": {"embedding": ["/home/me/words.bin"]}},
    "/home/me/lora": {"checkpoint": {"lora": ["/home/me/lora"]}},
    "them/classifier": {"losses": [{**CLASSIFIER, "classifier": "them/classifier"}]},
    "them/clip": {"losses": [{"kind": "text", "target": "x", "clip": {"": 1, "them/clip": 2}}]},
    "/home/me/head.pth": {
        "losses": [{"kind": "aesthetic", "target": 9, "rater": "/home/me/head.pth"}]
    },
    "them/judge": {"methods": [{"kind": "audit", "judge": "them/judge"}]},
    "them/features": {"methods": [{"kind": "stylize", "features": "them/features"}]},
    "/home/me/tuned": {
        "methods": [{"kind": "diffusion-clip-edit", "tuned": {"/home/me/tuned": 1.0}}]
    },
    "/home/me/direction": {
        "methods": [{"kind": "asyrp-edit", "directions": {"/home/me/direction": 1.0}}]
    },
}


def test_every_kind_of_network_is_among_the_strange() -> None:
    """So that a new field that names one is tried below."""
    kinds = [Checkpoint, *METHODS.own.values(), *LOSSES.own.values()]
    fields = {
        name
        for kind in kinds
        for name, info in kind.model_fields.items()
        if name in ("embedding", "lora")
        or NETWORK in info.metadata
        or _mentions(NETWORK, info.annotation)
    }
    tried = json.dumps([*STRANGE.values()])
    assert fields == {
        "model", "config", "embedding", "lora", "classifier", "clip", "rater", "judge", "features",
        "tuned", "directions",
    }  # fmt: skip
    assert all(f'"{name}"' in tried for name in fields)


@pytest.mark.parametrize("name", STRANGE)
def test_a_strangers_networks_are_neither_loaded_nor_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PLAIN | STRANGE[name]
    text = json.dumps({"program": "0.2.0", "digests": {}, "run": run})
    picture = write(tmp_path / "picture.png", text)
    touched: list[str] = []

    def watch(function: Any) -> Any:
        def watched(path: Any, *rest: Any, **named: Any) -> Any:
            touched.append(str(path))
            return function(path, *rest, **named)

        return watched

    with monkeypatch.context() as patch:
        for holder, called in (
            (os, "stat"),
            (os, "lstat"),
            (os, "open"),
            (os, "scandir"),
            (io, "open"),
        ):
            patch.setattr(holder, called, watch(getattr(holder, called)))
        patch.setattr("builtins.open", watch(open))
        with pytest.raises(
            UserError, match=f"names networks that chainrule does not bring: {name}"
        ) as caught:
            find_run(picture)
        assert caught.value.field == "trust"
        found = find_run(picture, trust=True)
    assert list_strange(found) == [name]
    assert touched
    assert not [path for path in touched if name in path or "me" in Path(path).parts]
    if "model" in STRANGE[name].get("checkpoint", {}):
        assert find_run(picture, model="mine/model").checkpoint.model == "mine/model"
    else:
        with pytest.raises(UserError, match="say that you trust them"):
            find_run(picture, model="mine/model")


def test_what_is_bundled_needs_no_trust(tmp_path: Path) -> None:
    run = PLAIN | {
        "losses": [CLASSIFIER, {"kind": "text", "target": "x"}, {"kind": "aesthetic", "target": 9}]
    }
    text = json.dumps({"program": "0.2.0", "digests": {}, "run": run})
    assert find_run(write(tmp_path / "picture.png", text)).checkpoint.model == "scenes"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret.png",
        "inputs/../../secret.png",
        "inputs/..",
        "secret.png",
        "inputs/a/b.png",
    ],
)
def test_no_file_outside_of_its_folder_is_read(name: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    run = json.loads(read_origin(made / "contact-sheet.png").model_dump_json())["run"]
    run["inputs"]["photo"] = name
    text = changed(made, run=run, digests={name: "0", "inputs/photo.png": "0"})
    with pytest.raises(UserError, match="which is not in its folder"):
        find_run(write(tmp_path / "copy" / "images" / "stranger.png", text))


DEEP = "[" * 150 + "]" * 150
TEXTS = (
    "[" * 100_000, '{"a":' * 100_000, "\x00", "\\", '"\\ud800"', "9" * 100_000, "NaN", "null", "[]", '"x"',
    '{"program": "0.2.0", "digests": {}, "run": ' + DEEP + "}",
    '{"program": "0.2.0", "digests": {}, "run": {"version": 2, "methods": ' + DEEP + "}}",
    '{"program": "0.2.0", "digests": {}, "run": {"version": 2, "methods": [{"kind": "' + "x" * 500_000 + '"}]}}',
    '{"program": "0.2.0", "digests": {}, "run": {"version": "' + "\\u001b[31m" * 10_000 + '"}}',
    '{"program": "0.2.0", "digests": {}, "run": {"methods": [{"kind": "plain"}], "inputs": {"prompt": 1e999}}}',
    '{"program": "0.2.0", "digests": {}, "run": {"methods": [{"kind": "plain"}], "inputs": {"photo": "a\\u0000b"}}}',
    '{"program": "0.2.0", "digests": {}, "run": {"methods": [{"kind": "plain"}], "checkpoint": {"model": "a\\u0000"}}}',
    '{"program": "0.2.0", "digests": {}, "label": "' + "y" * 500_000 + '", "run": {"methods": [{"kind": "plain"}]}}',
    '{"version": "0.1.0", "settings": {"prompt": "a red circle"}}',
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_whatever_a_picture_carries_is_refused_in_a_short_sentence(
    number: int, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        find_run(write(tmp_path / "picture.png", TEXTS[number]))
    assert caught.value.cure
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2 * LONGEST_ERROR + 10
    assert ("made by chainrule 0.1" in str(caught.value)) == ("0.1.0" in TEXTS[number])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_a_damaged_picture_is_refused_or_carries_what_it_did(made: Path, seed: int) -> None:
    rng, folder = random.Random(seed), Path(mkdtemp())
    picture = made / "images" / "doodl-0007.png"
    whole, origin = bytearray(picture.read_bytes()), read_origin(picture)
    for _ in range(rng.randrange(1, 4)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    end = rng.randrange(len(whole)) if rng.random() < 0.3 else len(whole)
    (folder / "picture.png").write_bytes(whole[:end])
    try:
        found = read_origin(folder / "picture.png")
    except UserError:
        found = origin
    assert found == origin
    shutil.rmtree(folder)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"too many pixels .*: name a picture that chainrule wrote"):
        find_run(tmp_path / "bomb.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"is a pipe, a socket or a device|is not a file"):
        find_run(tmp_path / "pipe.png")
