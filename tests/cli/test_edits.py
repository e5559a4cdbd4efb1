"""Editing pictures from the command line: every method by one vocabulary of options, masks, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import tiny
from chainrule.methods import METHODS
from chainrule.methods.base import Needs
from chainrule.runs import read_spec
from chainrule.scenes.base import Scene, Thing, render
from command import call, images

SHOWN, WANTED = "a red circle on a white background", "a green circle on a white background"
QUICK = ["--steps", "3", "--seed", "0,1"]
WORDS = ["--from", SHOWN, "--prompt", WANTED]
EDITS = [
    "asyrp", "blended", "ddim", "diffedit", "edict", "ilvr", "prompt-to-prompt", "repaint", "sdedit", "semantic",
]  # fmt: skip
TRAINED = {
    "imagic": "imagic:embedding_iterations=1,iterations=1,batch=1",
    "unitune": "unitune:iterations=1,batch=1",
}
EVERY = [option for method in EDITS for option in ("--method", method)]


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


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {
        path.name: np.asarray(Image.open(path)).astype(int)
        for path in (folder / "images").iterdir()
    }


def test_every_method_that_edits_by_words_is_tried() -> None:
    photos = {kind for kind in METHODS.own if Needs.PHOTO in METHODS[kind].needs}
    assert photos - {
        "reconstruction",
        "inversion",
        "diffusion-clip-edit",
        "asyrp-edit",
        *TRAINED,
    } | {"semantic"} == set(EDITS)


def test_methods_that_train_edit_beside_the_others(photo: Path, mask: Path, tmp_path: Path) -> None:
    """Few iterations; the rest outside the mask is kept, and the grid of etas is beside the images."""
    methods = [
        option for method in ("sdedit", *TRAINED.values()) for option in ("--method", method)
    ]
    run = tmp_path / "run"
    options = ("--prompt", WANTED, *methods, "--mask", mask, "--exact", *QUICK)
    code, output = call("edit", photo, *options, "-o", run)
    assert code == 0, output
    before, free = np.asarray(Image.open(photo)), np.asarray(Image.open(mask)) > 127
    made = pixels(run)
    assert len(made) == 2 * 3
    for name, picture in made.items():
        assert (picture == before)[~free].all(), name
        assert (picture != before)[free].any(), name
    assert list(run.rglob("etas.png"))


def test_all_methods_side_by_side(photo: Path, mask: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, output = call("edit", photo, *WORDS, *EVERY, "--mask", mask, "--exact", *QUICK, "-o", run)
    assert code == 0, output
    made = pixels(run)
    assert set(made) == {f"{method}-{seed}.png" for method in EDITS for seed in ("0000", "0001")}
    before, free = np.asarray(Image.open(photo)), np.asarray(Image.open(mask)) > 127
    for name, picture in made.items():
        assert (picture == before)[~free].all(), name
        assert (picture != before)[free].any(), name
    words = Image.open(run / "attention.png")
    assert words.width > 6 * 192  # seven words
    assert {path.name for path in (run / "inputs").iterdir()} == {"photo.png", "mask.png"}
    code, output = call("rerun", run / "images" / "repaint-0001.png", "-o", tmp_path / "again")
    assert code == 0, output
    again = images(tmp_path / "again")
    assert again == {name: images(run)[name] for name in ("repaint-0000.png", "repaint-0001.png")}


@pytest.mark.parametrize(
    ("family", "without"),
    [
        ("Stable Diffusion 1.x", {"semantic"}),
        ("Stable Diffusion XL", {"semantic"}),
        ("Stable Diffusion 3", {"semantic", "prompt-to-prompt"}),
    ],
)
@pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
def test_on_anyones_checkpoint(
    family: str, without: set[str], photo: Path, mask: Path, tmp_path: Path
) -> None:
    folder = tiny.save_family(family, tmp_path / "pipeline")
    quick = ["--steps", "2", "--seed", "0", "-m", folder, "-o"]
    chosen = [
        option for method in EDITS if method not in without for option in ("--method", method)
    ]
    code, output = call("edit", photo, *WORDS, *chosen, "--mask", mask, *quick, tmp_path / "run")
    assert code == 0, output
    assert len(images(tmp_path / "run")) == len(EDITS) - len(without)
    for method in without:
        code, output = call("edit", photo, *WORDS, "--method", method, *quick, tmp_path / method)
        assert (code, output[:7]) == (2, "error: ")
        assert not (tmp_path / method).exists()


def test_the_models_own_pictures_are_edited_from_their_noise(tmp_path: Path) -> None:
    options = [
        "--weight",
        "green=2",
        "--blend",
        "circle",
        "--self-attention",
        "0.5",
        "--cross",
        "1",
    ]
    method = ["--method", "prompt-to-prompt"]
    code, output = call("edit", *WORDS, *method, *options, *QUICK, "-o", tmp_path / "run")
    assert code == 0, output
    (settings,) = read_spec(tmp_path / "run" / "spec.json").methods
    assert (settings.weight, settings.self_attention, settings.cross) == ({"green": 2.0}, 0.5, 1.0)
    assert set(images(tmp_path / "run")) == {
        f"{what}-{seed}.png" for what in ("photo", "prompt-to-prompt") for seed in ("0000", "0001")
    }
    code, output = call(
        "edit", "--from", SHOWN, "--prompt", SHOWN, *method, *QUICK, "-o", tmp_path / "same"
    )
    assert code == 0, output
    same = pixels(tmp_path / "same")
    for seed in ("0000", "0001"):
        assert abs(same[f"photo-{seed}.png"] - same[f"prompt-to-prompt-{seed}.png"]).max() <= 1


@pytest.mark.parametrize(
    "where", ["colour=red", "colour=#de2626", "text=a green circle on a black background"]
)
def test_masks_by_colour_and_by_words(where: str, photo: Path, tmp_path: Path) -> None:
    options = ["--method", "repaint", "--repeats", "1", "--mask", where, "--exact"]
    code, output = call("edit", photo, *WORDS, *options, "--steps", "3", "-o", tmp_path / "run")
    assert code == 0, output
    changed = (np.asarray(Image.open(photo)) != pixels(tmp_path / "run")["repaint-0000.png"]).any(
        axis=-1
    )
    assert 0.02 < changed.mean() < 0.7
    if where.startswith("colour"):
        assert changed[26, 22]
        assert not changed[60, 60]


def test_semantic_guidance_mixes_losses(photo: Path, tmp_path: Path) -> None:
    losses = ["--loss", f"text={SHOWN}", "--loss", f"0.5*style={photo}", "--loss", f"0.5*perceptual={photo}", "--loss",
              f"image={photo}"]  # fmt: skip
    quick = ["--method", "semantic", "--steps", "2", "--seed", "0", "-o"]
    code, output = call("guide", WANTED, *losses, *quick, tmp_path / "run")
    assert code == 0, output
    code, output = call("guide", WANTED, "--loss", "symmetry", *quick, tmp_path / "no")
    assert code == 2
    assert "semantic guidance knows text, image, perceptual and style, not symmetry" in output


def test_blended_follows_a_loss_and_noise_aware_a_class(
    photo: Path, mask: Path, tmp_path: Path
) -> None:
    options = [
        "--loss",
        "classifier=star",
        "--method",
        "blended",
        "--method",
        "noise-aware",
        "--mask",
        mask,
    ]
    code, output = call(
        "edit", photo, *WORDS, *options, *QUICK, "--scale", "30", "-o", tmp_path / "run"
    )
    assert code == 0, output
    assert len(images(tmp_path / "run")) == 4
    assert [method.scale for method in read_spec(tmp_path / "run" / "spec.json").methods] == [
        30.0,
        30.0,
    ]


def test_inverting_says_what_the_way_there_and_back_costs(photo: Path, tmp_path: Path) -> None:
    code, output = call("invert", photo, "--steps", "4", "-o", tmp_path / "run")
    assert code == 0, output
    for said in ("drift", "float32", "float64", "autoencoder"):
        assert said in output
    pair = load_file(tmp_path / "run" / "latents.safetensors")
    assert pair["x"].shape == pair["y"].shape
    numbers = json.loads((tmp_path / "run" / "report.json").read_text())["methods"]["inversion"][
        "numbers"
    ]
    assert numbers["float64"]["drift"] < 1e-12
    assert call("resume", tmp_path / "run")[0] == 0


E = ["edit", "PHOTO", *WORDS]
BAD = {
    "no picture": (
        ["edit", "--prompt", WANTED],
        "there is no picture: name one, or say what the model should draw",
    ),
    "nothing asked": (
        ["edit", "PHOTO", "--from", SHOWN],
        "there is nothing to edit: say what the picture should show",
    ),
    "no words": (
        ["edit", "PHOTO", "--loss", "symmetry", "--method", "diffedit"],
        "should show: say it (--prompt)",
    ),
    "no source": (
        ["edit", "PHOTO", "--prompt", WANTED, "--method", "prompt-to-prompt"],
        "shows: say it (--from)",
    ),
    "no mask": (
        [*E, "--method", "repaint"],
        "repaint fills a part of the picture: say which with a mask, white = change (--mask)",
    ),
    "no mask's picture": (
        ["generate", "x", "--mask", "colour=red"],
        "there is no option or setting --mask",
    ),
    "no file": ([*E, "--mask", "nowhere.png"], "nowhere.png"),
    "no colour": (
        [*E, "--mask", "colour=reddish"],
        "'reddish' is not a colour: name one (red) or write it (#de2626)",
    ),
    "empty mask": (
        [*E, "--mask", "colour=blue"],
        "the mask is empty, so that nothing of the picture would change",
    ),
    "large mask": (
        [*E, "--mask", "LARGE"],
        "is 65x64 pixels and the picture 64x64: they must be the same size (--mask)",
    ),
    "exact": ([*E, "--exact"], "what is outside of a mask is kept exactly: name a mask (--mask)"),
    "a long mask": ([*E, "--mask", f"text={'red ' * 40}"], "the prompt has 40 tokens"),
    "no weight": (
        [*E, "--method", "prompt-to-prompt", "--weight", "green=much"],
        "weight.green cannot be 'much': input should be a valid number",
    ),
    "eta": (
        [*E, "--method", "sdedit", "--eta", "2"],
        "eta cannot be '2': input should be less than or equal to 1",
    ),
    "share": ([*E, "--method", "prompt-to-prompt", "--cross", "2"], "cross cannot be '2'"),
    "repeats": ([*E, "--method", "repaint", "--repeats", "0"], "repeats cannot be '0'"),
    "strength": ([*E, "--strength", "2"], "strength cannot be '2'"),
    "mix": ([*E, "--mix", "1.5"], "mix cannot be '1.5'"),
    "no loss": (
        [*E, "--method", "doodl"],
        "doodl needs a loss: name one, for example classifier=heart (--loss)",
    ),
    "nothing redone": ([*E, "--method", "edict", "--strength", "0"], "strength cannot be '0'"),
    "coarse": ([*E, "--method", "ilvr", "--factor", "100"], "100"),
    "no such word": (
        [*E, "--method", "prompt-to-prompt", "--weight", "cat=2"],
        "has no word 'cat': name one",
    ),
    "no word to blend": (
        [*E, "--method", "prompt-to-prompt", "--blend", "cat"],
        "neither prompt has the word 'cat'",
    ),
    "a setting of none": (
        [*E, "--method", "sdedit", "--blend", "circle"],
        "nothing that was chosen has a setting 'blend': there are eta, repeats, steps, strength",
    ),
    "a setting of none, nearly": (
        [*E, "--method", "ilvr", "--step", "5"],
        "there is no option or setting --step: did you mean --steps",
    ),
    "noise for a photo": (
        [*E, "--method", "plain"],
        "plain draws from noise: choose a method that edits photos (--method)",
    ),
    "a photo's method": (["generate", "x", "--method", "sdedit"], "sdedit edits a photo: name one"),
    "a method for a photo's inversion": (
        ["invert", "PHOTO", "--method", "edict"],
        "there is no option or setting",
    ),
    "a photo's method, guided": (
        ["guide", WANTED, "--loss", "symmetry", "--method", "edict"],
        "edict edits a photo: name one (PHOTO of `chainrule edit`)",
    ),
    "a photo, quickly": (
        [*E, "--loss", "symmetry", "--preset", "quick"],
        "choose faithful or tuned (--preset)",
    ),
    "no photo": (["edit", "nowhere.png", "--loss", "symmetry"], "nowhere.png: name a picture"),
    "not a photo": (["edit", __file__, "--loss", "symmetry"], "is not an image"),
    "no photo to invert": (["invert", "nowhere.png"], "nowhere.png: name a picture"),
    "long prompt": (
        ["edit", "PHOTO", "--prompt", "red " * 40],
        "the prompt has 40 tokens and this model reads 22",
    ),
    "no loss's picture": (
        ["guide", WANTED, "--loss", "image=nowhere.png"],
        "nowhere.png: name a picture",
    ),
    "a loss without its target": (
        ["guide", WANTED, "--loss", "aesthetic"],
        "'aesthetic' is not a loss",
    ),
    "empty text": (["guide", WANTED, "--loss", "text= "], "'text= ' is not a loss"),
    "long text": (["guide", WANTED, "--loss", f"text={'red ' * 40}"], "and CLIP reads 24: shorten"),
    "unknown CLIP": (
        ["guide", WANTED, "--loss", "text=red", "--clip", "./nope"],
        "there is no CLIP at ./nope",
    ),
    "no head": (
        ["guide", WANTED, "--loss", "aesthetic=10", "--rater", "nope.pth"],
        "there is no file nope.pth",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_made(
    name: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    Image.new("L", (65, 64), 255).save(tmp_path / "large.png")
    arguments, message = BAD[name]
    files = {"PHOTO": str(photo), "LARGE": str(tmp_path / "large.png")}
    code, output = call(*(files.get(argument, argument) for argument in arguments))
    assert code == 2, output
    assert message in output
    assert output.startswith("error:")
    assert output.count("error:") == 1
    assert "Traceback" not in output
    assert not list(here.iterdir())


def test_a_picture_in_landscape(tmp_path: Path) -> None:
    render(Scene((Thing("circle", "red", 22, 26, 15),), "white")).resize((96, 64)).save(
        tmp_path / "wide.png"
    )
    Image.new("L", (96, 64), 255).save(tmp_path / "mask.png")
    code, output = call("edit", tmp_path / "wide.png", *WORDS, *EVERY, "--mask", tmp_path / "mask.png", "--steps", "2",
                        "-o", tmp_path / "wide")  # fmt: skip
    assert code == 0, output
    for path in (tmp_path / "wide" / "images").iterdir():
        width, height = Image.open(path).size
        assert width / height == pytest.approx(1.5, abs=0.06)


def test_nothing_depends_on_what_else_is_in_the_batch(tmp_path: Path) -> None:
    for name, seeds in (("both", "0,1"), ("one", "1")):
        options = ["--method", "semantic", "--steps", "3", "--seed", seeds]
        code, output = call("edit", *WORDS, *options, "-o", tmp_path / name)
        assert code == 0, output
    both, one = (pixels(tmp_path / name)["semantic-0001.png"] for name in ("both", "one"))
    assert abs(both - one).max() <= 2
