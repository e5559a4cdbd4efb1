"""A run opens in the form of its page, and what it has learnt can be chosen there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chainrule import UserError
from chainrule.runs import Folder, execute, parse_spec
from chainrule.studio.again import open_run
from chainrule.studio.desk import UPLOADS, Desk
from chainrule.studio.learnt import find_learnt
from chainrule.studio.listing import Listing


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "runs")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a photo.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def write_run(desk: Desk, name: str, methods: list[dict[str, Any]], **inputs: Any) -> None:
    spec = parse_spec({"inputs": inputs, "methods": methods})
    for _ in execute(spec, desk.folder / name):
        pass


LEARNING = {"kind": "textual-inversion", "iterations": 1, "steps": 2, "word": "<blob>"}
LORA = {"kind": "dreambooth", "iterations": 1, "steps": 2, "rank": 2}


def test_what_was_learnt_can_be_chosen(desk: Desk, picture: Path) -> None:
    pictures = [str(picture)]
    write_run(desk, "word", [LEARNING], prompt=("{} here",), pictures=pictures)
    write_run(desk, "lora", [LORA], prompt=("{} here",), pictures=pictures)
    write_run(desk, "drawn", [{"kind": "plain", "steps": 2}], prompt="a red circle")
    (desk.folder / "drawn" / "embedding.safetensors").write_bytes(b"put here by somebody")
    found = find_learnt(Listing(desk))
    word = str(desk.folder / "word" / "embedding.safetensors")
    assert found.words == (("<blob> of word", word),)
    lora = str(desk.folder / "lora" / "pytorch_lora_weights.safetensors")
    assert found.loras == (("lora", lora),)
    assert found.checkpoints == ()
    (desk.folder / "word" / "embedding.safetensors").write_bytes(b"damaged")
    assert find_learnt(Listing(desk)).words == (("embedding of word", word),)


def test_a_training_opens_in_its_form(desk: Desk, picture: Path) -> None:
    write_run(desk, "word", [LEARNING], prompt=("{} here", "{} there"), pictures=[str(picture)])
    found = open_run(desk, "word")
    assert (found.page, found.inputs["prompt"]) == ("tune", "{} here\n{} there")
    (copy,) = map(Path, found.inputs["pictures"])
    assert copy.read_bytes() == picture.read_bytes()
    assert copy.is_relative_to(desk.side(UPLOADS))
    assert found.values["textual-inversion"]["word"] == "<blob>"


def test_an_edit_opens_in_its_form(desk: Desk, picture: Path) -> None:
    methods = [{"kind": "sdedit", "steps": 2, "strength": 0.5}]
    words: dict[str, Any] = {"prompt": "a blue circle", "source": "red", "mask_colour": "red"}
    write_run(desk, "edit", methods, photo=str(picture), **words)
    found = open_run(desk, "edit")
    assert (found.page, found.inputs["prompt"]) == ("edit", "a blue circle")
    assert Path(found.inputs["photo"]).read_bytes() == picture.read_bytes()
    assert (found.inputs["source"], found.inputs["mask_colour"]) == ("red", "red")


def test_plain_losses_of_every_kind_open(desk: Desk, picture: Path) -> None:
    losses = [
        "classifier=heart",
        f"image={picture}",
        f"picture={picture}",
        "text=a heart",
        "0.123456789*symmetry",
    ]
    Folder.create(
        desk.folder / "run", parse_spec({"losses": losses, "methods": [{"kind": "plain"}]})
    )
    found = open_run(desk, "run").losses
    assert [loss[0] for loss in found] == ["classifier", "image", "picture", "text", "symmetry"]
    assert found[-1][3] == "0.123456789"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": [{"kind": "plain"}, {"kind": "plain", "steps": 9}]}, "a method twice"),
        ({"prompt": ["a circle", "a heart"], "seed": [0, 1]}, "several prompts"),
        ({"photo": True, "mask": True}, "a painted mask"),
        ({"photo": True, "native": True}, "the model's own size"),
        ({"source": "a red circle"}, "no photo of its own"),
        ({"pictures": True, "methods": [LEARNING, LORA]}, "several methods"),
        ({"pictures": True, "methods": [LEARNING], "guidance_scale": 2}, "a guidance scale"),
        ({"losses": [{"kind": "classifier", "target": "heart", "objective": "ce"}]}, "a loss with"),
        ({"checkpoint": {"model": "x/y", "variant": "fp16"}}, "a variant"),
    ],
)
def test_what_no_form_has_is_not_lost_without_a_word(
    changes: dict[str, Any], said: str, desk: Desk, picture: Path
) -> None:
    values = {
        name: [str(picture)] if name == "pictures" else str(picture)
        if value is True and name != "native" else value
        for name, value in changes.items()
    }  # fmt: skip
    methods = values.pop("methods", [{"kind": "sdedit" if "photo" in values else "plain"}])
    rest = {name: values.pop(name) for name in ("losses", "checkpoint") if name in values}
    spec = parse_spec({"inputs": values, "methods": methods, **rest})
    Folder.create(desk.folder / "run", spec)
    with pytest.raises(UserError, match=said):
        open_run(desk, "run")
