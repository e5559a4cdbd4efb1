"""Editing pictures from the command line: every method by one vocabulary of options, masks, and what cannot be."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

import tiny
from chainrule.draw import draw
from chainrule.explain import explained
from chainrule.scenes.base import Scene, Thing, render
from chainrule.settings import BY_WORDS, FOR_PHOTOS, IN_A_MASK, Method
from test_cli import call, images

SHOWN, WANTED = "a red circle on a white background", "a green circle on a white background"
QUICK = ["--steps", "3", "--seed", "0,1"]
WORDS = ["--from", SHOWN, "--prompt", WANTED]
METHODS = sorted(FOR_PHOTOS - {"doodl", "one-step", "noise-aware", "reconstruction"})
EVERY = [option for method in METHODS for option in ("--method", method)]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    render(Scene((Thing("circle", "red", 22, 26, 15),), "white")).save(path)
    return path


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mask") / "mask.png"
    picture = Image.new("L", (64, 64))
    picture.paste(255, (0, 0, 44, 48))
    picture.save(path)
    return path


def test_all_methods_side_by_side(photo: Path, mask: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, output = call("edit", photo, *WORDS, *EVERY, "--mask", mask, "--exact", *QUICK, "-o", run)
    assert code == 0, output
    made = {path.name: np.asarray(Image.open(path)) for path in (run / "images").iterdir()}
    assert set(made) == {f"{method}-{seed}.png" for method in METHODS for seed in (0, 1)}
    before, free = np.asarray(Image.open(photo)), np.asarray(Image.open(mask)) > 127
    for name, picture in made.items():
        assert (picture == before)[~free].all(), name
        assert (picture != before)[free].any(), name
    words = Image.open(run / "attention.png")
    assert words.width > 6 * 192  # seven words
    code, output = call("rerun", run / "images" / "repaint-1.png", "-o", tmp_path / "again")
    assert code == 0, output
    again = images(tmp_path / "again")
    assert again == {f"repaint-{seed}.png": images(run)[f"repaint-{seed}.png"] for seed in (0, 1)}


@pytest.mark.parametrize(
    ("family", "without"),
    [
        ("Stable Diffusion 1.x", {"semantic"}),
        ("Stable Diffusion XL", {"semantic"}),
        ("Stable Diffusion 3", {"semantic", "prompt-to-prompt", "asyrp"}),
    ],
)
@pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
def test_on_anyones_checkpoint(family: str, without: set[str], photo: Path, mask: Path, tmp_path: Path) -> None:
    folder = tiny.save_family(family, tmp_path / "pipeline")
    chosen = [option for method in METHODS if method not in without for option in ("--method", method)]
    code, output = call("edit", photo, *WORDS, *chosen, "--mask", mask, *QUICK, "-m", folder, "-o", tmp_path / "run")
    assert code == 0, output
    assert len(images(tmp_path / "run")) == 2 * (len(METHODS) - len(without))
    for method in without:
        code, output = call("edit", photo, *WORDS, "--method", method, *QUICK, "-m", folder, "-o", tmp_path / method)
        assert code == 2
        assert output.startswith("error: ")


def test_the_models_own_pictures_are_edited_from_their_noise(tmp_path: Path) -> None:
    options = [
        "--method",
        "prompt-to-prompt",
        "--weight",
        "green=2",
        "--blend",
        "circle",
        "--self",
        "0.5",
        "--cross",
        "1",
    ]
    code, output = call("edit", *WORDS, *options, *QUICK, "-o", tmp_path / "run")
    assert code == 0, output
    assert set(images(tmp_path / "run")) == {
        f"{what}-{seed}.png" for what in ("photo", "prompt-to-prompt") for seed in (0, 1)
    }
    code, output = call("edit", "--from", SHOWN, "--prompt", SHOWN, "--method", "prompt-to-prompt", *QUICK,
                        "-o", tmp_path / "same")  # fmt: skip
    assert code == 0, output
    same = {path.name: np.asarray(Image.open(path)).astype(int) for path in (tmp_path / "same" / "images").iterdir()}
    for seed in (0, 1):
        assert abs(same[f"photo-{seed}.png"] - same[f"prompt-to-prompt-{seed}.png"]).max() <= 1


@pytest.mark.parametrize("where", ["colour=red", "colour=#de2626", "text=a green circle on a black background"])
def test_masks_by_colour_and_by_words(where: str, photo: Path, tmp_path: Path) -> None:
    options = ["--method", "repaint", "--repeats", "1", "--mask", where, "--exact"]
    code, output = call("edit", photo, *WORDS, *options, *QUICK, "-o", tmp_path / "run")
    assert code == 0, output
    before, after = (np.asarray(Image.open(path)) for path in (photo, tmp_path / "run" / "images" / "repaint-0.png"))
    changed = (before != after).any(axis=-1)
    assert 0.02 < changed.mean() < 0.7
    if where.startswith("colour"):
        assert changed[26, 22]
        assert not changed[60, 60]


def test_semantic_guidance_mixes_losses(photo: Path, tmp_path: Path) -> None:
    losses = ["--loss", f"text={SHOWN}", "--loss", f"0.5*style={photo}", "--loss", f"0.5*perceptual={photo}", "--loss",
              f"image={photo}"]  # fmt: skip
    code, output = call("guide", WANTED, *losses, "--method", "semantic", *QUICK, "-o", tmp_path / "run")
    assert code == 0, output
    code, output = call("guide", WANTED, "--loss", "symmetry", "--method", "semantic", *QUICK, "-o", tmp_path / "no")
    assert code == 2
    assert "semantic guidance knows text, image, perceptual and style, not symmetry" in output


def test_blended_follows_a_loss_and_noise_aware_a_class(photo: Path, mask: Path, tmp_path: Path) -> None:
    options = ["--loss", "classifier=star", "--method", "blended", "--method", "noise-aware", "--mask", mask]
    code, output = call("edit", photo, *WORDS, *options, *QUICK, "--scale", "30", "-o", tmp_path / "run")
    assert code == 0, output
    assert len(images(tmp_path / "run")) == 4


def test_every_method_explains_itself_in_ten_lines() -> None:
    for method in get_args(Method):
        said = explained(method)
        lines = [line for line in said.splitlines() if line.strip()]
        assert len(lines) <= 10, method
        assert "Limits: " in said, method
        assert any(str(year) in said for year in range(2020, 2025)) or method == "best-of", method
    code, output = call("edit", "--explain", "sdedit")
    assert (code, output.split()) == (0, explained("sdedit").split())
    code, output = call("edit", "--explain", "magic")
    assert code == 2
    assert "there is no method 'magic': choose among adjoint-dpm" in output


def test_every_method_that_does_not_iterate_can_be_drawn() -> None:
    """Each name has its case."""
    code = inspect.getsource(draw)
    for method in set(get_args(Method)) - {"doodl", "adjoint-dpm"}:
        assert f'case "{method}"' in code, method


FILES = Path(inspect.getfile(draw)).parent / "methods"


@pytest.mark.parametrize("path", sorted(FILES.glob("*.py")), ids=lambda path: path.stem)
def test_an_editing_methods_file_fits_on_two_screens(path: Path) -> None:
    names = {
        "sdedit",
        "ilvr",
        "repaint",
        "noise_aware",
        "semantic",
        "blended",
        "diffedit",
        "prompt_to_prompt",
        "edict",
        "asyrp",
    }
    if path.stem in names:
        assert len(path.read_text().splitlines()) <= 150


BAD = {
    "no picture": (["edit", "--prompt", WANTED], "there is no picture: name one, or say with --from"),
    "nothing asked": (["edit", "PHOTO", "--from", SHOWN], "there is nothing to edit: say what the picture should show"),
    "no words": (["edit", "PHOTO", "--loss", "symmetry", "--method", "diffedit"], "say it with --prompt"),
    "no source": (["edit", "PHOTO", "--prompt", WANTED, "--method", "prompt-to-prompt"], "say it with --from"),
    "no mask": (["edit", "PHOTO", *WORDS, "--method", "repaint"], "repaint fills a part of the picture: say which"),
    "no file": (["edit", "PHOTO", *WORDS, "--mask", "nowhere.png"], "there is no file nowhere.png"),
    "no colour": (["edit", "PHOTO", *WORDS, "--mask", "colour=reddish"], "'reddish' is no colour"),
    "empty mask": (["edit", "PHOTO", *WORDS, "--mask", "colour=blue"], "is empty: nothing of the picture would change"),
    "large mask": (["edit", "PHOTO", *WORDS, "--mask", "LARGE"], "is 65x64 pixels and the picture 64x64"),
    "exact": (["edit", "PHOTO", *WORDS, "--exact"], "what is outside of a mask is kept exactly: name one"),
    "no weight": (["edit", "PHOTO", *WORDS, "--weight", "green"], "'green' is no weight of a word"),
    "no word": (["edit", "PHOTO", *WORDS, "--weight", "=2"], "'=2' names no word"),
    "eta": (["edit", "PHOTO", *WORDS, "--eta", "2"], "editing.eta cannot be 2.0"),
    "share": (["edit", "PHOTO", *WORDS, "--cross", "2"], "editing.cross cannot be 2.0"),
    "repeats": (["edit", "PHOTO", *WORDS, "--repeats", "0"], "editing.repeats cannot be 0"),
    "strength": (["edit", "PHOTO", *WORDS, "--strength", "2"], "strength cannot be 2.0"),
    "no loss": (["edit", "PHOTO", *WORDS, "--method", "doodl"], "doodl needs a loss: name one"),
    "nothing redone": (["edit", "PHOTO", *WORDS, "--method", "edict", "--strength", "0"], "which only sdedit can"),
    "coarse": (["edit", "PHOTO", *WORDS, "--method", "ilvr", "--factor", "100"], "is between 1 and 16 here, not 100"),
    "no such word": (
        ["edit", "PHOTO", *WORDS, "--method", "prompt-to-prompt", "--weight", "cat=2"],
        "the prompt has no word 'cat'",
    ),
    "no word to blend": (
        ["edit", "PHOTO", *WORDS, "--method", "prompt-to-prompt", "--blend", "cat"],
        "neither prompt has the word 'cat'",
    ),
    "not heeded": (
        ["edit", "PHOTO", *WORDS, "--method", "sdedit", "--blend", "circle"],
        "none of these methods heeds blend: prompt-to-prompt would",
    ),
    "not heeded, at zero": (["edit", "PHOTO", *WORDS, "--method", "edict", "--eta", "0"], "heeds eta: blended, ilvr"),
    "no strength": (
        ["edit", "PHOTO", *WORDS, "--method", "ilvr", "--strength", "0.5"],
        "none of these methods heeds strength: blended, ddim, diffedit, edict",
    ),
    "a long mask": (["edit", "PHOTO", *WORDS, "--mask", f"text={'red ' * 40}"], "the prompt has 40 tokens"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_one_sentence_and_nothing_is_made(
    name: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    Image.new("L", (65, 64), 255).save(tmp_path / "large.png")
    arguments, message = BAD[name]
    files = {"PHOTO": str(photo), "LARGE": str(tmp_path / "large.png")}
    code, output = call(*(files.get(argument, argument) for argument in arguments))
    assert code == 2
    assert message in " ".join(output.split())
    assert output.startswith("error:")
    assert not list(here.iterdir())


def test_the_sets_of_methods_are_methods() -> None:
    assert set(get_args(Method)) > BY_WORDS | IN_A_MASK


def test_a_picture_in_landscape_and_another_seed(tmp_path: Path) -> None:
    """Nothing depends on what else is in the batch, and photos need not be square."""
    render(Scene((Thing("circle", "red", 22, 26, 15),), "white")).resize((96, 64)).save(tmp_path / "wide.png")
    Image.new("L", (96, 64), 255).save(tmp_path / "mask.png")
    code, output = call("edit", tmp_path / "wide.png", *WORDS, *EVERY, "--mask", tmp_path / "mask.png", "--steps", "2",
                        "-o", tmp_path / "wide")  # fmt: skip
    assert code == 0, output
    width, height = Image.open(tmp_path / "wide" / "images" / "repaint-0.png").size
    assert width / height == pytest.approx(1.5, abs=0.06)
    for name, seeds in (("both", "0,1"), ("one", "1")):
        code, output = call(
            "edit", *WORDS, "--method", "semantic", "--steps", "3", "--seed", seeds, "-o", tmp_path / name
        )
        assert code == 0, output
    made = [Image.open(tmp_path / name / "images" / "semantic-1.png") for name in ("both", "one")]
    both, one = (np.asarray(picture).astype(int) for picture in made)
    assert abs(both - one).max() <= 2
