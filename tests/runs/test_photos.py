"""Photos that people bring, through a run: what is said beforehand, and what comes back at their own size."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chainrule import UserError
from chainrule.images import load_picture, read_picture, to_pil
from chainrule.losses import parse_loss
from chainrule.methods import METHODS
from chainrule.methods.base import Needs, Result
from chainrule.runs import Warned, execute, find_run, load_task, parse_spec
from chainrule.runs.load import prepare_methods
from chainrule.scenes.base import Scene, Thing, render
from conftest import tiny_model

MODEL = tiny_model()
SDEDIT = {"kind": "sdedit", "steps": 2}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo of four times the sides of the tiny model's images, which are 8 x 8."""
    path = tmp_path / "photo.png"
    to_pil(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))).save(path)
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """It keeps the right half, but for a margin that no pixel of the model's is as fine as."""
    path = tmp_path / "mask.png"
    picture = Image.new("L", (32, 32))
    picture.paste(255, (0, 0, 18, 32))
    picture.save(path)
    return path


def run(folder: Path, *methods: dict[str, Any], **inputs: Any) -> list[str]:
    """What was said while a run was done in a folder."""
    spec = parse_spec({"inputs": inputs, "methods": methods or [SDEDIT]})
    return [event.message for event in execute(spec, folder, MODEL) if isinstance(event, Warned)]


def made(folder: Path, name: str = "sdedit-0000.png") -> np.ndarray:
    return np.asarray(Image.open(folder / "images" / name))


# --- the photo's own size -----------------------------------------------------------------------


def test_results_have_the_photos_own_size(photo: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.open(photo).resize((53, 29)).save(wide)
    run(tmp_path / "run", photo=wide, seed=(0, 1))
    for seed in ("0000", "0001"):
        assert made(tmp_path / "run", f"sdedit-{seed}.png").shape == (29, 53, 3)
    assert (made(tmp_path / "run") != made(tmp_path / "run", "sdedit-0001.png")).any()
    sheet = Image.open(tmp_path / "run" / "contact-sheet.png").size
    run(tmp_path / "native", photo=wide, seed=(0, 1), native=True)
    height, width, _ = made(tmp_path / "native").shape
    assert height <= 12
    assert width / height == pytest.approx(53 / 29, abs=0.3)
    assert Image.open(tmp_path / "native" / "contact-sheet.png").size == sheet


def test_a_photo_of_the_models_size_comes_back_as_the_model_made_it(
    photo: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.png"
    Image.open(photo).resize((8, 8)).save(small)
    for native in (False, True):
        run(tmp_path / str(native), photo=small, native=native)
    assert (made(tmp_path / "False") == made(tmp_path / "True")).all()


def test_outside_of_an_exact_mask_every_pixel_is_the_photos_own(
    photo: Path, mask: Path, tmp_path: Path
) -> None:
    every = [
        {"kind": kind, "steps": 2} for kind in ("sdedit", "edict", "repaint", "blended", "ilvr")
    ]
    words = {"source": "a dog", "prompt": "a cat"}
    run(tmp_path / "run", *every, photo=photo, mask=mask, exact=True, **words)
    before, free = np.asarray(Image.open(photo)), np.asarray(Image.open(mask)) > 127
    for path in (tmp_path / "run" / "images").iterdir():
        changed = (np.asarray(Image.open(path)) != before).any(axis=-1)
        assert not changed[~free].any(), path.name
        assert changed[free].any(), path.name
    run(tmp_path / "soft", photo=photo, mask=mask)
    changed = (made(tmp_path / "soft") != before).any(axis=-1)
    assert not changed[:, 28:].any()  # far outside
    assert changed[:, :14].mean() > 0.5


def test_a_picture_of_such_a_run_makes_it_again(photo: Path, mask: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", photo=photo, mask=mask, exact=True)
    again = find_run(tmp_path / "run" / "images" / "sdedit-0000.png")
    list(execute(again, tmp_path / "again", MODEL))
    assert (made(tmp_path / "again") == made(tmp_path / "run")).all()


def test_a_photos_transparency_comes_back(photo: Path, tmp_path: Path) -> None:
    clear = Image.open(photo).convert("RGBA")
    alpha = np.zeros((32, 32), dtype=np.uint8)
    alpha[8:], alpha[20:] = 128, 255
    clear.putalpha(Image.fromarray(alpha))
    clear.save(tmp_path / "clear.png")
    said = run(tmp_path / "run", photo=tmp_path / "clear.png")
    (about,) = [each for each in said if "transparent" in each]
    assert "the model sees it on white, and its edits get its transparency back" in about
    found = made(tmp_path / "run")
    assert found.shape == (32, 32, 4)
    assert (found[..., 3] == alpha).all()
    assert (found[:8] == np.asarray(clear)[:8]).all()  # what cannot be seen is not changed
    assert (found[20:] != np.asarray(clear)[20:]).any()
    run(tmp_path / "native", photo=tmp_path / "clear.png", native=True)
    assert made(tmp_path / "native").shape == (8, 8, 3)


def test_without_a_photo_there_is_no_own_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without a photo all images have the model's own size"):
        run(tmp_path / "run", {"kind": "plain", "steps": 2}, prompt="a dog", native=True)
    with pytest.raises(UserError, match="without a photo all images have the model's own size"):
        run(tmp_path / "run", source="a dog", prompt="a cat", native=True)


METHODS_OF_PHOTOS = [
    kind
    for kind in METHODS.own
    if kind not in ("effect", "stylize", "audit") and Needs.NOISE not in METHODS[kind].needs
]


@pytest.mark.parametrize("kind", METHODS_OF_PHOTOS)
def test_results_of_every_method_can_be_put_back(kind: str, photo: Path, mask: Path) -> None:
    """Whatever it makes is as large as what the model saw."""
    spec = parse_spec(
        {
            "inputs": {
                "photo": photo,
                "source": "a dog",
                "prompt": "a cat",
                **({"mask": mask} if Needs.MASK in METHODS[kind].needs else {}),
            },
            "methods": [METHODS[kind](**{"steps": 2} if "steps" in METHODS[kind].model_fields else {}).model_dump()],
            "losses": [{"kind": "brightness", "target": 0.9}],
        }
    )  # fmt: skip
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = load_task(spec, MODEL)
        try:
            ((method, own),) = prepare_methods(spec, task).values()
            found = next(iter([method.result(own, state) for state in first(method.run(own))]))
        except UserError as error:
            pytest.skip(str(error))  # the tiny model lacks something
    if isinstance(found, Result):
        assert task.require_photo().put_back(found.images).shape == (1, 3, 32, 32)


def first(states: Any) -> list[Any]:
    return [next(iter(states))]


# --- what is said beforehand --------------------------------------------------------------------


def test_a_photo_that_the_model_cannot_draw_is_said_before_the_work_begins(
    photo: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    from chainrule.models.base import Codec

    class Blurred(type(MODEL.codec)):  # type: ignore[misc]
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return super().encode(images.mean(dim=(2, 3), keepdim=True).expand_as(images))

    half = Image.new("RGB", (32, 32), "white")
    half.paste("black", (0, 0, 16, 32))
    half.save(photo)
    codec: Codec = Blurred.__new__(Blurred)
    codec.__dict__.update(MODEL.codec.__dict__)
    model = replace(MODEL, codec=codec)
    spec = parse_spec({"inputs": {"photo": photo}, "methods": [SDEDIT]})
    events = execute(spec, tmp_path / "run", model)
    told = next(event for event in events if isinstance(event, Warned))
    events.close()  # type: ignore[attr-defined]
    assert "photo.png to " in told.message
    assert "dB only (below 25): what comes back will look unlike it: crop it" in told.message
    assert not (tmp_path / "run" / "images").exists()  # nothing had been made
    assert not any("below 25" in said for said in run(tmp_path / "well", photo=photo))


def test_a_photo_much_larger_than_what_the_model_sees_is_said(photo: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.open(photo).resize((120, 120)).save(large)
    (said,) = [each for each in run(tmp_path / "run", photo=large) if "as coarse" in each]
    assert "at 8x8 pixels instead of 120x120" in said
    assert "15 times as coarse: crop it, or choose a larger size" in said
    assert not any("coarse" in each for each in run(tmp_path / "well", photo=photo))


def test_a_mask_that_is_too_thin_is_not_called_empty(photo: Path, tmp_path: Path) -> None:
    thin = Image.new("L", (32, 32))
    thin.paste(255, (9, 0, 10, 32))
    thin.save(tmp_path / "thin.png")
    with pytest.raises(UserError, match="the mask is too thin: nothing of it is left at the 8x8"):
        run(tmp_path / "run", photo=photo, mask=tmp_path / "thin.png")


def test_a_photo_that_is_too_narrow_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (1, 3000)).save(tmp_path / "line.png")
    with pytest.raises(UserError, match=r"1x3000 pixels are too narrow for a model .*: crop the"):
        run(tmp_path / "run", photo=tmp_path / "line.png")


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["photo", "mask", "pictures", "loss"])
def test_a_run_does_not_wait_for_a_pipe(place: str, photo: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    inputs: dict[str, Any] = {"photo": photo, "prompt": "a dog"}
    losses = [parse_loss(f"picture={tmp_path / 'fifo'}")] if place == "loss" else []
    if place == "pictures":
        inputs = {"pictures": tmp_path / "fifo", "prompt": "a dog"}
    elif place != "loss":
        inputs[place] = tmp_path / "fifo"
    methods = [{"kind": "effect"} if place == "pictures" else SDEDIT]
    spec = parse_spec({"inputs": inputs, "losses": losses, "methods": methods})
    with pytest.raises(UserError, match="is a pipe, a socket or a device"):
        list(execute(spec, tmp_path / "run", MODEL))
    assert not (tmp_path / "run").exists()


def test_a_comma_may_be_in_a_files_name(photo: Path, tmp_path: Path) -> None:
    names = ["red, white.png", "a.png", "b,c,d.png"]
    for name in names:
        (tmp_path / name).write_bytes(photo.read_bytes())
    for listed in ([names[0]], [names[2]], names, names[::-1], ["a.png", "none.png"]):
        text = ",".join(str(tmp_path / name) for name in listed)
        assert parse_loss(f"image={text}")["target"] == tuple(tmp_path / name for name in listed)
    few = parse_loss("image=" + ",".join(["x"] * 5000))  # in time
    assert len(few["target"]) == 5000


def test_what_the_bundled_model_sees_of_a_photo_is_put_back(tmp_path: Path) -> None:
    """A drawing of its own world, six times as large."""
    from chainrule.runs import load_model

    scene = render(Scene((Thing("circle", "red", 22, 26, 15),), "white"))
    scene.resize((384, 384), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    inputs = {"photo": tmp_path / "large.png", "prompt": "a green circle on a white background"}
    spec = parse_spec(
        {"inputs": inputs, "methods": [{"kind": "sdedit", "steps": 4, "strength": 0.8}]}
    )
    model = load_model(spec.checkpoint)
    list(execute(spec, tmp_path / "run", model))
    native = parse_spec(spec.model_dump() | {"inputs": {**inputs, "native": True}})
    list(execute(native, tmp_path / "native", model))
    full, small = (
        load_picture(tmp_path / name / "images" / "sdedit-0000.png") for name in ("run", "native")
    )
    assert full.shape == (3, 384, 384)
    seen = torch.nn.functional.interpolate(full[None], (64, 64), mode="bicubic", antialias=True)
    photo = load_picture(tmp_path / "large.png")
    fitted = model.codec.fit(photo)[None]
    with torch.no_grad():  # what the autoencoder does to colours is no edit
        moved = model.decode(model.encode(fitted)) - fitted
    error = (seen + moved - small).square().mean()
    assert -10 * error.log10() > 30
    assert len(read_picture(tmp_path / "run" / "images" / "sdedit-0000.png")) == 3


def test_what_the_autoencoder_does_to_colours_is_no_edit(tmp_path: Path) -> None:
    """The white of a photo is not the white that the model draws, and stays the photo's."""
    white = Image.new("RGB", (200, 200), "white")
    white.paste((220, 30, 30), (60, 60, 140, 140))
    white.save(tmp_path / "white.png")
    inputs = {"photo": tmp_path / "white.png", "source": "a red square on a white background"}
    inputs["prompt"] = inputs["source"]
    method = {"kind": "reconstruction", "steps": 10}
    list(execute(parse_spec({"inputs": inputs, "methods": [method]}), tmp_path / "run"))
    again = load_picture(tmp_path / "run" / "images" / "reconstruction-0000.png")
    photo = load_picture(tmp_path / "white.png")
    assert (again - photo).abs().max() < 0.05
    assert (again - photo)[:, :40].abs().max() < 0.01


def test_a_size_that_no_memory_holds_is_one_sentence(photo: Path) -> None:
    spec = parse_spec(
        {
            "checkpoint": {"size": (1_000_000, 1_000_000)},
            "inputs": {"photo": str(photo), "prompt": "a"},
            "methods": [{"kind": "sdedit"}],
        }
    )
    with pytest.raises(UserError, match="there is not enough memory: choose a smaller size"):
        load_task(spec)
