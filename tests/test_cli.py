"""The command line as a user runs it, on the bundled model at a few steps."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from chainrule.cli import app
from chainrule.methods.presets import preset
from chainrule.run import Run
from chainrule.settings import Settings

PROMPT = "a red shape on a white background"
GUIDE = ["guide", PROMPT, "--loss", "classifier=heart", "--steps", "3", "--iterations", "4", "--seed", "0,7"]


def call(*arguments: object) -> tuple[int, str]:
    """(exit code, everything printed, in one line)."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "guided"
    code, output = call(*GUIDE, "--method", "plain", "--method", "one-step", "--method", "doodl", "--output", folder)
    assert code == 0, output
    assert output.endswith("grid.png")
    return folder


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: Image.open(path).tobytes() for path in sorted((folder / "images").glob("*.png"))}


def test_a_run_folder_holds_everything(guided: Path) -> None:
    names = {f"{method}-{seed}.png" for method in ("plain", "one-step", "doodl") for seed in (0, 7)}
    assert set(images(guided)) == names
    history = json.loads((guided / "history.json").read_text())
    assert len(history["doodl"]) == 5
    assert all(score.startswith("judge: ") for scores in history["scores"].values() for score in scores)
    assert Settings.model_validate_json((guided / "settings.json").read_text()).seeds == (0, 7)
    for name in ("grid.png", "loss.png"):
        assert Image.open(guided / name).size > (100, 100)
    assert not list(guided.rglob(".part-*"))
    assert Image.open(guided / "images" / "plain-0.png").size == (64, 64)


def test_a_picture_makes_itself_again(guided: Path, tmp_path: Path) -> None:
    for method in ("one-step", "doodl"):
        code, output = call("rerun", guided / "images" / f"{method}-7.png", "--output", tmp_path / method)
        assert code == 0, output
        again = images(tmp_path / method)
        assert again[f"{method}-7.png"] == images(guided)[f"{method}-7.png"]
    code, output = call("rerun", guided / "grid.png", "--output", tmp_path / "grid")
    assert (code, images(tmp_path / "grid")) == (0, images(guided)), output


@pytest.mark.parametrize(
    ("solver", "grid"), [("heun", None), ("dpm++", "karras"), ("ab4", "log-snr"), ("rk4", "uniform")]
)
def test_other_solvers_draw_the_same_picture_nearly(solver: str, grid: str | None, tmp_path: Path) -> None:
    """In 12 steps, all are near what DDIM makes of the same noise in 60."""
    common = ["generate", PROMPT, "--seed", "3", "--guidance-scale", "1", "-o"]
    chosen = ["--solver", solver, *(["--grid", grid] if grid else [])]
    assert call(*common, tmp_path / "one", *chosen, "--steps", "12")[0] == 0
    assert call(*common, tmp_path / "two", "--steps", "60")[0] == 0
    one, two = (np.asarray(Image.open(tmp_path / name / "images" / "plain-3.png"), float) for name in ("one", "two"))
    assert np.abs(one - two).mean() < 12  # of 255


def test_a_finished_run_is_not_done_again(guided: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in guided.glob("*.safetensors")}
    code, _ = call("resume", guided)
    assert code == 0
    assert {path: path.stat().st_mtime_ns for path in guided.glob("*.safetensors")} == before


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment_it_ends_the_same(guided: Path, tmp_path: Path, seed: int) -> None:
    """kill -9 at random moments, then resume: the images of a run that was never stopped."""
    folder, rng = tmp_path / "killed", random.Random(seed)
    command = [sys.executable, "-m", "chainrule", *GUIDE, "--output", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(folder / "settings.json", process)
    for _ in range(2):
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
        process.wait()
        process = subprocess.Popen(
            [sys.executable, "-m", "chainrule", "resume", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(3, 6))
    assert process.wait(timeout=120) == 0
    assert images(folder) == images(guided)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, "the run ended before it began"
        time.sleep(0.05)


def test_interrupted_it_keeps_the_best_so_far(guided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Run._save_state

    def save_and_stop(self: Run, method: str, state) -> None:
        save(self, method, state)
        if state.iteration == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_save_state", save_and_stop)
    code, output = call(*GUIDE, "--output", tmp_path / "stopped")
    assert code == 130
    assert "resume" in output
    assert "doodl-7.png" in images(tmp_path / "stopped")
    monkeypatch.undo()
    code, _ = call("resume", tmp_path / "stopped")
    assert code == 0
    assert images(tmp_path / "stopped") == images(guided)


def test_generate_and_models(tmp_path: Path) -> None:
    code, _ = call(
        "generate", "a blue circle on a black background", "--seed", "0-2", "--steps", "2", "-o", tmp_path / "g"
    )
    assert code == 0
    assert set(images(tmp_path / "g")) == {"plain-0.png", "plain-1.png", "plain-2.png"}
    code, output = call("models")
    assert code == 0
    assert "scenes" in output.split()


def test_without_a_name_a_new_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _ = call("generate", "A red circle!", "--seed", "0", "--steps", "1")
    assert code == 0
    assert [path.name.split("-", 2)[2] for path in (tmp_path / "runs").iterdir()] == ["a-red-circle"]


BAD = {
    "empty prompt": (["generate", " "], "the prompt is empty: say what to draw"),
    "long prompt": (["generate", "red " * 40], "the prompt has 40 tokens and this model reads 22: shorten it"),
    "unknown model": (["generate", PROMPT, "-m", "./nope"], "there is no model 'nope': name a diffusers folder"),
    "unknown class": ([*GUIDE[:2], "--loss", "classifier=hart"], "no class 'hart'; it has, for example, heart"),
    "unknown loss": ([*GUIDE[:2], "--loss", "beauty"], "'beauty' is no loss: write classifier=CLASS"),
    "unknown classifier": ([*GUIDE, "--classifier", "./nope"], "there is no image classifier at ./nope"),
    "unknown method": ([*GUIDE, "--method", "magic"], "methods.0 cannot be 'magic': input should be 'plain'"),
    "unknown preset": ([*GUIDE, "--preset", "magic"], "there is no preset 'magic': choose faithful, tuned, quick"),
    "zero steps": (["generate", PROMPT, "--steps", "0"], "steps cannot be 0"),
    "too many steps": (["generate", PROMPT, "--steps", "1001"], "choose between 1 and 1000"),
    "no seeds": (["generate", PROMPT, "--seed", "x"], "'x' names no seeds: write one (7)"),
    "seeds backwards": (["generate", PROMPT, "--seed", "5-2"], "no range of seeds"),
    "a seed twice": (["generate", PROMPT, "--seed", "1,1"], "names a seed twice"),
    "unknown dtype": (["generate", PROMPT, "--dtype", "int8"], "dtype cannot be 'int8'"),
    "no such device": (["generate", PROMPT, "--device", "cuda:99"], "the device 'cuda:99' cannot be used here"),
    "negative rate": ([*GUIDE, "--rate", "-1"], "cannot be -1.0"),
    "no run": (["resume", "nowhere"], "nowhere holds no run"),
    "missing picture": (["rerun", "nowhere.png"], "there is no file nowhere.png"),
    "not an image": (["rerun", __file__], "is not an image"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_one_sentence_and_exit_code_2(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    code, output = call(*arguments)
    assert code == 2
    assert message in output
    assert output.startswith("error:")
    assert "Traceback" not in output


def test_an_output_that_is_taken_or_unwritable_is_refused_and_nothing_is_lost(guided: Path, tmp_path: Path) -> None:
    before = images(guided)
    code, output = call(*GUIDE, "--output", guided)
    assert (code, "is not empty: choose another --output" in output) == (2, True)
    assert images(guided) == before
    (tmp_path / "file").write_text("")
    code, output = call(*GUIDE, "--output", tmp_path / "file" / "run")
    assert (code, "cannot be written" in output) == (2, True)


def test_models_lists_what_can_be_loaded(tmp_path: Path) -> None:
    for name, family in {
        "a--mine": "StableDiffusionPipeline",
        "b--other": "KandinskyPipeline",
        "c--bert": None,
    }.items():
        snapshot = tmp_path / "hub" / f"models--{name}" / "snapshots" / "0"
        snapshot.mkdir(parents=True)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("0")
        if family:
            (snapshot / "model_index.json").write_text(json.dumps({"_class_name": family}))
    command = [sys.executable, "-m", "chainrule", "models"]
    done = subprocess.run(command, env=os.environ | {"HF_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout.split() == ["scenes", "a/mine"], done.stderr


def test_a_file_is_not_a_run(guided: Path) -> None:
    code, output = call("resume", guided / "grid.png")
    assert (code, "is not a run's folder" in output) == (2, True)


def test_a_picture_of_someone_else_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    code, output = call("rerun", tmp_path / "other.png")
    assert (code, "carries no settings" in output) == (2, True)


def test_a_nan_loss_keeps_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chainrule.losses import Classifier

    original, count = Classifier.__call__, iter(range(100))
    start = preset("tuned").doodl.start_of

    def sometimes_nan(self, images):  # a call for each draw of the start; two an iteration: the crops, the whole image
        return original(self, images) * (float("nan") if next(count) >= start + 4 else 1.0)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "__call__", sometimes_nan)
        code, output = call(*GUIDE, "--method", "doodl", "--output", tmp_path / "nan")
    assert code == 2
    assert "the loss classifier=heart is nan in iteration 2" in output
    kept = images(tmp_path / "nan")
    code, output = call("rerun", tmp_path / "nan" / "images" / "doodl-0.png", "--output", tmp_path / "again")
    assert code == 0, output
    assert images(tmp_path / "again") == kept  # the two iterations that were done, not the four that were asked for
