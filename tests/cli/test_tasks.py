"""The four tasks, inversion and editing from the command line: on the bundled model, and on anyone's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny
from chainrule.losses import load_clip, load_rater
from chainrule.pictures import from_pil
from chainrule.scenes.base import Scene, Thing, render, sample_scene
from chainrule.scenes.rating import rate
from test_cli import call, images

PROMPT = "a red shape on a white background"
QUICK = ["--steps", "2", "--iterations", "1", "--crops", "2"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture in portrait, larger than what the models make, with a camera's turn and some transparency."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    scene = Scene((Thing("heart", "red", 22, 26, 15),), "white")
    image = render(scene).resize((150, 150)).crop((0, 0, 150, 100)).convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    return path


@pytest.fixture(scope="module", params=["scenes", "sd1", "sd2"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name the networks: none for the bundled ones, folders for anyone's."""
    if request.param == "scenes":
        return []
    folder = tmp_path_factory.mktemp("world")
    tiny.pipeline(tiny.SCHEDULERS[request.param]).save_pretrained(folder / "pipeline")
    tiny.save_clip(folder / "clip")
    tiny.save_clip(folder / "siglip", "siglip")
    tiny.save_classifier(folder / "classifier")
    head = tiny.save_head(folder / "head.safetensors", load_clip(folder / "clip").width)
    clips = ["--clip", f"0.5*{folder / 'clip'}", "--clip", f"0.25*{folder / 'siglip'}"]
    named = ["--classifier", str(folder / "classifier"), "--rater", str(head), "--features", str(folder / "classifier")]
    return ["-m", str(folder / "pipeline"), *clips, *named]


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "history.json").read_text())["doodl terms"]


@pytest.mark.parametrize("loss", ["classifier=heart", f"text={PROMPT}", "aesthetic=10", "image"])
def test_guiding(world: list[str], photo: Path, tmp_path: Path, loss: str) -> None:
    target = f"{loss}={photo}" if loss == "image" else loss
    code, output = call("guide", PROMPT, "--loss", target, "--seed", "0,3", *QUICK, *world, "-o", tmp_path / "run")
    assert code == 0, output
    assert set(images(tmp_path / "run")) == {f"{m}-{s}.png" for m in ("plain", "one-step", "doodl") for s in (0, 3)}
    terms = history(tmp_path / "run")
    several = 2 if world and loss.startswith(("text", "image")) else 1  # a term for each CLIP
    assert [len(term["values"]) for term in terms] == [2] * several
    if several == 2:
        assert [term["name"].split()[:2] for term in terms] == [["0.5", "clip"], ["0.25", "siglip"]]


def test_editing_towards_a_rating(world: list[str], photo: Path, tmp_path: Path) -> None:
    losses = ["--loss", "aesthetic=10", "--loss", f"0.5*perceptual={photo}"]
    code, output = call("edit", photo, *losses, *QUICK, *world, "-o", tmp_path / "run")
    assert code == 0, output
    assert set(images(tmp_path / "run")) == {f"{method}-0.png" for method in ("reconstruction", "one-step", "doodl")}
    width, height = Image.open(tmp_path / "run" / "images" / "doodl-0.png").size
    assert height / width == pytest.approx(1.5, abs=0.06)  # the photo's proportions, turned
    assert [term["name"] for term in history(tmp_path / "run")] == ["aesthetic=10", "0.5 perceptual"]


def test_editing_by_words(world: list[str], photo: Path, tmp_path: Path) -> None:
    words = ["--from", PROMPT, "--to", "a blue shape on a white background", "--method", "edict"]
    code, output = call("edit", photo, *words, "--steps", "3", *world, "-o", tmp_path / "run")
    assert code == 0, output
    code, output = call("edit", photo, *words[:2], "--to", PROMPT, "--method", "edict", "--method", "reconstruction",
                        "--steps", "3", *world, "-o", tmp_path / "same")  # fmt: skip
    assert code == 0, output
    same, back, other = (
        np.asarray(Image.open(tmp_path / folder / "images" / f"{method}-0.png")).astype(int)
        for folder, method in (("same", "edict"), ("same", "reconstruction"), ("run", "edict"))
    )
    assert abs(same - back).max() <= 1 < abs(other - back).max()
    code, output = call("rerun", tmp_path / "run" / "images" / "edict-0.png", "-o", tmp_path / "again")
    assert code == 0, output
    assert images(tmp_path / "again") == images(tmp_path / "run")


def test_inverting(world: list[str], photo: Path, tmp_path: Path) -> None:
    model = world[:2]
    code, output = call("invert", photo, "--steps", "4", *model, "-o", tmp_path / "run")
    assert code == 0, output
    assert "float32" in output
    assert "float64" in output
    assert "no inversion" in output
    pair = load_file(tmp_path / "run" / "inversion.safetensors")
    assert pair["x"].shape == pair["y"].shape
    assert Image.open(tmp_path / "run" / "grid.png").size > (100, 100)


def test_noise_aware_guidance_is_the_bundled_worlds(world: list[str], tmp_path: Path) -> None:
    arguments = ["guide", PROMPT, "--loss", "classifier=heart", "--method", "noise-aware", "--seed", "0", *QUICK]
    code, output = call(*arguments, *world, "-o", tmp_path / "run")
    if world:
        assert code == 2
        assert "noise-aware guidance needs a classifier that was trained on the model's noisy latents" in output
    else:
        assert code == 0, output
        assert set(images(tmp_path / "run")) == {"noise-aware-0.png"}


BAD = {
    "nothing asked": (["edit", "PHOTO"], "there is nothing to edit: say what the picture should show (--prompt)"),
    "no loss": (["guide", PROMPT], "there is no loss to guide: name one with --loss"),
    "no photo": (["edit", "nowhere.png", "--loss", "symmetry"], "nowhere.png: name a picture"),
    "not a photo": (["edit", __file__, "--loss", "symmetry"], "is not an image"),
    "no photo to invert": (["invert", "nowhere.png"], "nowhere.png: name a picture"),
    "noise for a photo": (
        ["edit", "PHOTO", "--loss", "symmetry", "--method", "plain"],
        "plain draws from noise: choose among asyrp, blended, ddim",
    ),
    "a photo's method": (
        ["guide", PROMPT, "--loss", "symmetry", "--method", "edict"],
        "edict edits a photo: choose among adjoint-dpm",
    ),
    "edict without words": (["edit", "PHOTO", "--loss", "symmetry", "--method", "edict"], "say it with --prompt"),
    "a loss without its target": (["guide", PROMPT, "--loss", "aesthetic"], "'aesthetic' is no loss"),
    "not a number": (["guide", PROMPT, "--loss", "aesthetic=high"], "target cannot be 'high'"),
    "no picture": (["guide", PROMPT, "--loss", "image=nowhere.png"], "nowhere.png: name a picture"),
    "empty text": (["guide", PROMPT, "--loss", "text= "], "'text= ' is no loss"),
    "long text": (["guide", PROMPT, "--loss", f"text={'red ' * 40}"], "and CLIP reads 24: shorten"),
    "unknown CLIP": (["guide", PROMPT, "--loss", "text=red", "--clip", "./nope"], "there is no CLIP at ./nope"),
    "no head": (["guide", PROMPT, "--loss", "aesthetic=10", "--rater", "nope.pth"], "there is no file nope.pth"),
    "strength": (["edit", "PHOTO", "--to", "red", "--strength", "1.5"], "strength cannot be 1.5"),
    "mix": (["edit", "PHOTO", "--to", "red", "--mix", "1.5"], "doodl.mix cannot be 1.5"),
    "long prompt": (["edit", "PHOTO", "--to", "red " * 40], "the prompt has 40 tokens and this model reads 22"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_one_sentence_and_nothing_is_made(
    name: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    code, output = call(*(str(photo) if argument == "PHOTO" else argument for argument in arguments))
    assert code == 2
    assert message in output
    assert output.startswith("error:")
    assert not list(tmp_path.iterdir())


def test_the_bundled_rater_agrees_with_the_definition() -> None:
    """It explains a good part of the ratings of pictures that it has never seen."""
    fresh = from_pil([render(sample_scene(seed)) for seed in range(300)])
    with torch.no_grad():
        rated = load_rater()(fresh)
    true = torch.tensor([rate(image) for image in fresh])
    assert torch.corrcoef(torch.stack([rated, true]))[0, 1] > 0.5
