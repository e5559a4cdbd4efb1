"""A picture carries the run that made it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, PngImagePlugin

from chainrule.errors import UserError
from chainrule.images import to_pil
from chainrule.runs import Iteration, execute, find_run, parse_spec, read_origin
from chainrule.runs.origin import LONGEST
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
    with pytest.raises(UserError, match=rf" is not an image: {cure}"):
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
