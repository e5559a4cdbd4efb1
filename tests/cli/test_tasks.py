"""Guiding and editing towards a loss from the command line: on the bundled model, and on anyone's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from chainrule.cli._ask import make_spec
from chainrule.losses import load_clip
from chainrule.memory import Plan
from chainrule.methods import Task
from chainrule.runs import Estimate, RunSpec
from chainrule.scenes.base import Scene, Thing, render
from command import call, images

PROMPT = "a red shape on a white background"
QUICK = ["--steps", "2", "--iterations", "1", "--crops", "2"]
WORLDS = ["scenes", "sd1", pytest.param("sd2", marks=pytest.mark.slow)]


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


@pytest.fixture(scope="module", params=WORLDS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """The options that name the networks, by the kind of loss: none for the bundled ones, folders for anyone's."""
    if request.param == "scenes":
        return {
            name: [] for name in ("model", "text", "image", "classifier", "aesthetic", "features")
        }
    folder = tmp_path_factory.mktemp("world")
    tiny.pipeline(tiny.SCHEDULERS[request.param]).save_pretrained(folder / "pipeline")
    tiny.save_clip(folder / "clip")
    tiny.save_clip(folder / "siglip", "siglip")
    tiny.save_classifier(folder / "classifier")
    head = tiny.save_head(folder / "head.safetensors", load_clip(folder / "clip").width)
    clip, siglip = ["--clip", f"0.5*{folder / 'clip'}"], ["--clip", f"0.25*{folder / 'siglip'}"]
    return {
        "model": ["-m", str(folder / "pipeline")],
        "classifier": ["--classifier", str(folder / "classifier")],
        "text": [*clip, *siglip],
        "image": [*clip, *siglip],
        "aesthetic": [*clip, "--rater", str(head)],
        "features": ["--features", str(folder / "classifier")],
    }


def terms(folder: Path) -> dict[str, list[list[float]]]:
    return json.loads((folder / "report.json").read_text())["methods"]["doodl"]["terms"]


@pytest.mark.parametrize("loss", ["classifier=heart", f"text={PROMPT}", "aesthetic=10", "image"])
def test_guiding(world: dict[str, list[str]], photo: Path, tmp_path: Path, loss: str) -> None:
    target, kind = (f"{loss}={photo}" if loss == "image" else loss), loss.split("=")[0]
    methods = ["--method", "plain", "--method", "one-step", "--method", "doodl:start_of=1"]
    options = [*methods, "--seed", "0,3", *QUICK, *world["model"], *world[kind]]
    code, output = call("guide", PROMPT, "--loss", target, *options, "-o", tmp_path / "run")
    assert code == 0, output
    assert set(images(tmp_path / "run")) == {
        f"{method}-{seed}.png"
        for method in ("plain", "one-step", "doodl")
        for seed in ("0000", "0003")
    }
    found = terms(tmp_path / "run")
    several = 2 if world["model"] and kind in ("text", "image") else 1  # a term for each CLIP
    assert [len(values[0]) for values in found.values()] == [2] * several
    if several == 2:
        assert [name.split()[0] for name in found] == ["0.5*clip", "0.25*siglip"]


def test_editing_towards_a_rating(world: dict[str, list[str]], photo: Path, tmp_path: Path) -> None:
    losses = ["--loss", "aesthetic=10", "--loss", f"0.5*perceptual={photo}"]
    options = [*QUICK, *world["model"], *world["aesthetic"], *world["features"]]
    code, output = call("edit", photo, *losses, *options, "-o", tmp_path / "run")
    assert code == 0, output
    assert set(images(tmp_path / "run")) == {
        f"{method}-0000.png" for method in ("reconstruction", "one-step", "doodl")
    }
    width, height = Image.open(tmp_path / "run" / "images" / "doodl-0000.png").size
    assert height / width == pytest.approx(1.5, abs=0.06)  # the photo's proportions, turned
    assert list(terms(tmp_path / "run")) == ["aesthetic=10", "0.5*perceptual"]


def test_editing_by_words(world: dict[str, list[str]], photo: Path, tmp_path: Path) -> None:
    asked, steps = ["--from", PROMPT, "--prompt"], ["--steps", "3", *world["model"]]
    code, output = call(
        "edit",
        photo,
        *asked,
        "a blue shape on a white background",
        "--method",
        "edict",
        *steps,
        "-o",
        tmp_path / "run",
    )
    assert code == 0, output
    code, output = call("edit", photo, *asked, PROMPT, *steps, "-o", tmp_path / "same")
    assert code == 0, output
    same, back, other = (
        np.asarray(Image.open(tmp_path / folder / "images" / f"{method}-0000.png")).astype(int)
        for folder, method in (("same", "edict"), ("same", "reconstruction"), ("run", "edict"))
    )
    assert abs(same - back).max() <= 1 < abs(other - back).max()
    code, output = call(
        "rerun", tmp_path / "run" / "images" / "edict-0000.png", "-o", tmp_path / "again", "--trust"
    )
    assert code == 0, output
    assert images(tmp_path / "again") == images(tmp_path / "run")


def test_noise_aware_guidance_is_the_bundled_worlds(
    world: dict[str, list[str]], tmp_path: Path
) -> None:
    heart = ["--loss", "classifier=heart", "--method", "noise-aware", "--seed", "0", "--steps", "2"]
    code, output = call(
        "guide", PROMPT, *heart, *world["model"], *world["classifier"], "-o", tmp_path / "run"
    )
    if world["model"]:
        assert code == 2
        assert (
            "noise-aware guidance needs a classifier that was trained on the model's noisy latents"
            in output
        )
    else:
        assert code == 0, output
        assert set(images(tmp_path / "run")) == {"noise-aware-0000.png"}


def test_a_name_that_a_loss_and_an_optimiser_have_is_the_losses() -> None:
    values = {"loss": [f"text={PROMPT}"], "seed": "0"}
    found = make_spec(
        values,
        [("clip", "0.5*a"), ("clip", "b"), ("optimiser.clip", "0.3")],
        ["doodl"],
        preset=False,
    )
    assert found.losses[0].clip == {"a": 0.5, "b": 1.0}
    assert found.methods[0].optimiser.clip == 0.3
    alone = make_spec(
        {"loss": ["symmetry"], "seed": "0"}, [("clip", "none")], ["doodl"], preset=False
    )
    assert alone.methods[0].optimiser.clip is None


def test_an_estimate_says_which_way_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is tested by itself: tests/runs/test_estimate.py."""
    plans = [Plan(keep=2), Plan(), Plan(half=True)]

    def canned(spec: RunSpec, task: Task) -> Iterator[Estimate]:
        assert spec.memory is None
        for plan, peak in zip(plans, (300_000, 200_000, 100_000), strict=True):
            for label, _ in spec.labelled():
                yield Estimate(label, plan, 50_000, {"walk": 1_000, "back": peak - 50_000}, 7)

    monkeypatch.setattr("chainrule.cli.show.ladder", canned)
    asked = [
        "estimate",
        PROMPT,
        "--loss",
        "symmetry",
        "--steps",
        "3",
        "--method",
        "doodl",
        "--method",
        "plain",
    ]
    code, output = call(*asked)
    assert code == 0, output
    assert output.index("doodl") < output.index("plain")
    assert "within" not in output
    for said in ("peak", "300.0 kB", "100.0 kB", str(plans[0]), str(plans[2])):
        assert said in output
    code, output = call(*asked, "--memory", "250kB")
    assert code == 0, output
    for method in ("doodl", "plain"):
        assert f"within 250.0 kB, {method}: {plans[1]}, 200.0 kB" in output
    code, output = call(*asked, "--memory", "250kB", "--json")
    assert code == 0, output
    report = json.loads(output)
    assert (report["memory"], list(report["methods"])) == (250_000, ["doodl", "plain"])
    for rows in report["methods"].values():
        assert [row["plan"] for row in rows] == [plan.model_dump() for plan in plans]
        assert [row["peak"] for row in rows] == [300_000, 200_000, 100_000]
        assert [row["fits"] for row in rows] == [False, True, True]
        assert all(row["evaluations"] == 7 and row["weights"] == 50_000 for row in rows)
        assert rows[0]["phases"] == {"walk": 1_000, "back": 250_000}
    code, output = call(*asked, "--json")
    assert (code, json.loads(output)["memory"]) == (0, None)
    code, output = call(*asked, "--memory", "90kB", "--json")
    assert (code, output.count("error: 90.0 kB is too little for doodl, plain")) == (2, 1)
    code, output = call(*asked, "--memory", "90kB")
    assert code == 2
    assert output.endswith(
        "error: 90.0 kB is too little for doodl, plain: choose a smaller size, a smaller network for the loss, or more "
        "memory (--memory)"
    )
