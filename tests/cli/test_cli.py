"""The command line as a user runs it, on the bundled model at a few steps."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer import Exit
from typer.testing import CliRunner

import chainrule
from chainrule.bundled import WORLDS
from chainrule.cli._app import app
from chainrule.cli._options import split_settings
from chainrule.cli._settings import find_settings
from chainrule.cli._terminal import follow
from chainrule.methods import METHODS
from chainrule.methods.base import SEARCH
from chainrule.runs import Done, Event, Iteration, MethodBegun, execute, read_spec
from chainrule.scenes.base import Scene, Thing, render
from command import call, images

PROMPT = "a red shape on a white background"
SEEDS = ["--seed", "0,7"]
GUIDE = [
    "guide", PROMPT, "--loss", "classifier=heart", "--method", "plain", "--method", "one-step", "--method", "doodl",
    "--steps", "3", "--iterations", "3", "--start-of", "2", "--crops", "2", *SEEDS,
]  # fmt: skip
EDIT = [
    "--from",
    "a red circle on a white background",
    "--prompt",
    "a green circle on a white background",
]


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "guided"
    code, output = call(*GUIDE, "--output", folder, "--quiet")
    assert (code, output) == (0, str(folder / "contact-sheet.png"))
    return folder


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edit")
    render(Scene((Thing("circle", "red", 22, 26, 15),), "white")).save(folder / "photo.png")
    grid = ["--method", "sdedit:strength=0.6", "--method", "sdedit:strength=0.8"]
    code, output = call(
        "edit", folder / "photo.png", *EDIT, *grid, "--steps", "5", *SEEDS, "-o", folder / "run"
    )
    assert code == 0, output
    (folder / "photo.png").unlink()
    return folder / "run"


def test_a_run_folder_holds_everything(guided: Path) -> None:
    names = {
        f"{method}-{seed}.png"
        for method in ("plain", "one-step", "doodl")
        for seed in ("0000", "0007")
    }
    assert set(images(guided)) == names
    assert {path.name for path in guided.iterdir()} == {
        "spec.json", "digests.json", "images", "contact-sheet.png", "loss.png", "report.json", "report.csv",
        "plain.safetensors", "one-step.safetensors", "doodl.safetensors",
    }  # fmt: skip
    assert json.loads((guided / "spec.json").read_text())["version"] == 2
    spec = read_spec(guided / "spec.json")
    assert spec.inputs.seed == (0, 7)
    assert [(method.steps, method.kind) for method in spec.methods] == [
        (3, "plain"),
        (3, "one-step"),
        (3, "doodl"),
    ]
    report = json.loads((guided / "report.json").read_text())["methods"]
    assert len(report["doodl"]["history"]) == 4
    for entry in report.values():
        assert all(0 <= score <= 1 for score in entry["scores"]["judge"])
    rows = (guided / "report.csv").read_text().splitlines()
    assert rows[0] == "method,label,settings,seconds,passes,seed,loss,judge"
    assert len(rows) == 1 + len(names)
    for name in ("contact-sheet.png", "loss.png"):
        assert Image.open(guided / name).size > (100, 100)
    assert Image.open(guided / "images" / "plain-0000.png").size == (64, 64)


def test_pictures_make_themselves_again(guided: Path, tmp_path: Path) -> None:
    code, output = call(
        "rerun", guided / "images" / "doodl-0007.png", "--output", tmp_path / "doodl"
    )
    assert code == 0, output
    assert images(tmp_path / "doodl") == {
        name: pixels for name, pixels in images(guided).items() if name.startswith("doodl")
    }
    code, output = call("rerun", guided / "contact-sheet.png", "--output", tmp_path / "sheet")
    assert (code, images(tmp_path / "sheet")) == (0, images(guided)), output
    one, other = (
        Image.open(folder / "contact-sheet.png") for folder in (guided, tmp_path / "sheet")
    )
    assert one.tobytes() == other.tobytes()


def test_a_grid_of_settings(edited: Path) -> None:
    names = [
        f"sdedit-strength={strength}-{seed}.png"
        for strength in (0.6, 0.8)
        for seed in ("0000", "0007")
    ]
    assert list(images(edited)) == names
    assert len(set(images(edited).values())) == 4
    report = json.loads((edited / "report.json").read_text())
    assert list(report["methods"]) == ["sdedit strength=0.6", "sdedit strength=0.8"]


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_spec_is_run_as_the_command_that_wrote_it(
    edited: Path, kind: str, tmp_path: Path
) -> None:
    """Its photo is looked for beside it: in the run's folder."""
    if kind == "json":
        code, output = call("run", edited / "spec.json", "-o", tmp_path / "again")
    else:
        yaml = pytest.importorskip("yaml", reason="PyYAML is not installed, and nothing needs it")
        values = json.loads((edited / "spec.json").read_text())
        values["inputs"]["photo"] = str(edited / values["inputs"]["photo"])
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(values))
        code, output = call("run", tmp_path / "spec.yaml", "-o", tmp_path / "again")
    assert code == 0, output
    assert images(tmp_path / "again") == images(edited)
    assert (tmp_path / "again" / "spec.json").read_text() == (edited / "spec.json").read_text()


def test_a_finished_run_is_not_done_again(guided: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in guided.glob("*.safetensors")}
    assert call("resume", guided)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in guided.glob("*.safetensors")} == before


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "chainrule", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, "the run ended before it began"
        time.sleep(0.005)


KILLED = [
    "plain.safetensors",
    pytest.param("spec.json", marks=pytest.mark.slow),
    pytest.param("one-step.safetensors", marks=pytest.mark.slow),
    pytest.param("doodl.safetensors", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", KILLED)
def test_killed_it_goes_on_and_ends_the_same(guided: Path, tmp_path: Path, name: str) -> None:
    """kill -9 as soon as a file is there, then resume: the images of a run that was never stopped."""
    folder = tmp_path / "killed"
    process = start(*GUIDE, "-o", folder)
    wait_for(folder / name, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "report.json").exists()
    code, output = call("resume", folder)
    assert code == 0, output
    assert images(folder) == images(guided)


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_interrupted_it_keeps_the_best_and_says_how_to_go_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Ctrl-C, in a run that would last for hours."""
    folder = tmp_path / "stopped"
    process = start(
        *GUIDE, "--method", "best-of", "--count", "2", "--iterations", "100000", "-o", folder
    )
    wait_for(folder / "doodl.safetensors", process)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 128 + number
    assert f"the best so far is in {folder}, `chainrule resume {folder}` goes on" in " ".join(
        said.split()
    )
    assert "Traceback" not in said
    names = {
        f"{method}-{seed}.png"
        for method in ("plain", "one-step", "doodl")
        for seed in ("0000", "0007")
    }
    assert set(images(folder)) == names
    report = json.loads((folder / "report.json").read_text())["methods"]
    assert report["doodl"]["finished"] is False
    assert "best-of" not in report


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([MethodBegun("doodl", 5)], "stopped before anything was made"),
        (
            [MethodBegun("doodl", 5, 2)],
            "the best so far is in runs/x, `chainrule resume runs/x` goes on",
        ),
        ([MethodBegun("doodl", 5), Iteration("doodl", 1, 5, {})], "the best so far is in runs/x"),
        (
            [MethodBegun("doodl", 9, 0, SEARCH), Iteration("doodl", 1, 9, {}, SEARCH)],
            "the best so far is in runs/x, `chainrule resume runs/x` goes on",
        ),
    ],
)
def test_a_stop_says_what_there_is(
    events: list[Event], message: str, capsys: pytest.CaptureFixture
) -> None:
    def interrupted() -> Iterator[Event]:
        yield from events
        raise KeyboardInterrupt

    with pytest.raises(Exit) as caught:
        follow(interrupted(), Path("runs/x"), quiet=True)
    assert caught.value.exit_code == 130
    assert message in " ".join(capsys.readouterr().err.split())


def test_stopped_in_this_process_it_goes_on_from_the_command_line(
    guided: Path, tmp_path: Path
) -> None:
    events = execute(read_spec(guided / "spec.json"), tmp_path / "run")
    for event in events:
        if isinstance(event, Iteration) and (event.label, event.done) == ("doodl", 2):
            events.close()  # type: ignore[attr-defined]
        assert not isinstance(event, Done)
    code, output = call("resume", tmp_path / "run")
    assert code == 0, output
    assert images(tmp_path / "run") == images(guided)


@pytest.mark.parametrize(
    ("solver", "grid"),
    [("heun", None), ("dpm++", "karras"), ("ab4", "log-snr"), ("rk4", "uniform")],
)
def test_other_solvers_draw_the_same_picture_nearly(
    solver: str, grid: str | None, tmp_path: Path, reference: np.ndarray
) -> None:
    """In 12 steps, all are near what DDIM makes of the same noise in 60."""
    chosen = ["--solver", solver, *(["--grid", grid] if grid else [])]
    code, output = call(*PLAIN, "--steps", "12", *chosen, "-o", tmp_path / "run")
    assert code == 0, output
    found = np.asarray(Image.open(tmp_path / "run" / "images" / "plain-0003.png"), float)
    assert np.abs(found - reference).mean() < 12  # of 255


PLAIN = ["generate", PROMPT, "--seed", "3", "--guidance-scale", "1"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert call(*PLAIN, "--steps", "60", "-o", folder)[0] == 0
    return np.asarray(Image.open(folder / "images" / "plain-0003.png"), float)


def test_seeds_are_a_range_and_prompts_may_be_several(tmp_path: Path) -> None:
    code, output = call("generate", "a blue circle on a black background", "--seed", "0-2", "--steps", "1", "-o",
                        tmp_path / "g")  # fmt: skip
    assert code == 0, output
    assert set(images(tmp_path / "g")) == {"plain-0000.png", "plain-0001.png", "plain-0002.png"}


def test_without_a_name_a_new_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _ = call("generate", "A red circle!", "--seed", "0", "--steps", "1")
    assert code == 0
    assert [path.name.split("-", 2)[2] for path in (tmp_path / "runs").iterdir()] == [
        "a-red-circle"
    ]


def test_models_lists_what_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    families = {
        "a--mine": "StableDiffusionPipeline",
        "b--other": "KandinskyPipeline",
        "c--bert": None,
    }
    for name, family in families.items():
        snapshot = tmp_path / f"models--{name}" / "snapshots" / "0"
        snapshot.mkdir(parents=True)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("0")
        if family:
            (snapshot / "model_index.json").write_text(json.dumps({"_class_name": family}))
    code, output = call("models")
    worlds = [name for name, world in WORLDS.items() if world.installed]
    assert (code, output.split()) == (0, [*worlds, "a/mine"])


# --- what it says of itself ---------------------------------------------------------------------


def test_methods_are_listed_with_what_they_do() -> None:
    code, output = call("methods")
    assert code == 0
    for name, method in METHODS.known.items():
        assert f"{name} {' '.join((method.__doc__ or '').splitlines()[0].split())}" in output


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_does_its_limits_and_its_settings(name: str) -> None:
    method = METHODS[name]
    code, output = call("methods", name)
    assert code == 0
    assert output.startswith(" ".join((method.__doc__ or "").split()))
    assert "Limits: " in output
    known = find_settings(method)
    _, table = output.split("setting default what it is")
    default = method()
    for setting, path in known.items():
        value = getattr(default, path[0])
        if "." in setting or (len(path) > 1 and not hasattr(value, path[1])):  # another optimiser's
            continue
        value = value if len(path) == 1 else getattr(value, path[1])
        written = (
            {None: "none", True: "true", False: "false"}.get(value)
            if value in (None, True, False)
            else None
        )
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            written = str(value)
        assert f"{setting} {written or ''}" in table
        described = method.model_fields[path[0]].description
        if len(path) == 1 and described:
            assert " ".join(described.split()) in table
    assert set(method.model_fields) - {"kind"} <= set(known)


def test_an_unknown_method_is_named_with_the_nearest() -> None:
    code, output = call("methods", "sdedti")
    assert (code, output) == (2, "error: there is no method 'sdedti': did you mean sdedit?")


@pytest.mark.parametrize(
    "command", ["generate", "guide", "edit", "invert", "tune", "audit", "estimate"]
)
def test_help_is_short(command: str) -> None:
    said = (
        CliRunner()
        .invoke(app, [command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
        .output
    )
    assert 10 < len(said.splitlines()) <= 70


def test_settings_are_told_from_options() -> None:
    known = {"--seed", "--steps"}
    words = [
        "a.png",
        "--strength",
        "0.6",
        "--seed",
        "1",
        "--no-go=x=y",
        "--adjoint",
        "--clip",
        "--rate",
        "-1",
        "b.png",
    ]
    assert split_settings(words, known) == (
        ["a.png", "--seed", "1", "b.png"],
        [("strength", "0.6"), ("no_go", "x=y"), ("adjoint", None), ("clip", None), ("rate", "-1")],
    )
    assert split_settings(["--adjoint", "a.png"], known) == (["a.png"], [("adjoint", None)])
    assert split_settings(["--adjoint", "false", "a.png"], known) == (
        ["a.png"],
        [("adjoint", "false")],
    )
    assert split_settings(["--", "--strength", "1"], known) == (["--", "--strength", "1"], [])


# --- what cannot be -----------------------------------------------------------------------------

G = GUIDE[:2]
HEART = [*G, "--loss", "classifier=heart"]
BAD = {
    "empty prompt": (["generate", " "], "the prompt is empty: say what to draw"),
    "long prompt": (["generate", "red " * 40], "the prompt has 40 tokens and this model reads 22: shorten it"),
    "unknown model": (["generate", PROMPT, "-m", "./nope"], "there is no model 'nope': name a diffusers folder"),
    "no loss": (G, "there is no loss to guide: name one, classifier=CLASS"),
    "unknown class": ([*G, "--loss", "classifier=hart"], "no class 'hart': it has, for example, heart"),
    "unknown loss": ([*G, "--loss", "beauty"], "'beauty' is not a loss: write classifier=CLASS"),
    "unknown classifier": ([*HEART, "--classifier", "./nope"], "there is no image classifier at ./nope"),
    "unknown method": ([*HEART, "--method", "nosuch"], "there is no method 'nosuch': choose among adjoint-dpm"),
    "unknown preset": ([*HEART, "--preset", "magic"], "there is no preset 'magic': choose faithful, tuned, quick, best"),
    "preset without its method": ([*HEART, "--preset", "best", "--method", "plain"], "is the method hybrid, and that is not asked for"),
    "unknown setting": ([*HEART, "--stepz", "3"], "there is no option or setting --stepz: did you mean --steps"),
    "unknown setting of a method": (
        [*HEART, "--method", "doodl:foo=1"],
        "doodl has no setting 'foo': there are adjoint, average",
    ),
    "a setting of another method": (
        [*HEART, "--method", "plain", "--strength", "0.5"],
        "nothing that was chosen has a setting 'strength': there are",
    ),
    "no setting": ([*HEART, "--method", "plain:steps"], "'steps' is not a setting: write NAME=VALUE"),
    "a method twice": (
        [*HEART, "--method", "plain", "--method", "plain"],
        "a method is named twice with the same settings: name each once (--method)",
    ),
    "zero steps": (["generate", PROMPT, "--steps", "0"], "steps cannot be '0'"),
    "too many steps": (["generate", PROMPT, "--steps", "1001"], "choose between 1 and 1000"),
    "unknown choice": ([*HEART, "--objective", "mse"], "objective cannot be 'mse': input should be 'bce' or 'ce'"),
    "no value": (["generate", PROMPT, "--steps", "-o", "run"], "steps: a value is missing"),
    "empty seeds": (["generate", PROMPT, "--seed", ""], "'' is not a list of seeds"),
    "many seeds": (["generate", PROMPT, "--seed", "0-100000000"], "names too many seeds: name at most 10000"),
    "no number": (["generate", PROMPT, "--guidance-scale", "nan"], "guidance_scale cannot be 'nan'"),
    "no such file": (["generate", PROMPT, "--lora", "none.safetensors"], "(--lora)"),
    "unknown solver": (["generate", PROMPT, "--solver", "eulr"], "there is no solver 'eulr': did you mean euler?"),
    "unknown grid": (["generate", PROMPT, "--grid", "kerras"], "there is no time grid 'kerras': did you mean karras?"),
    "a negative seed": (["generate", PROMPT, "--seed", "-1"], "of whole numbers from 0 to 2147483647 (--seed)"),
    "eight bytes": (["generate", PROMPT, "--memory", "8"], "did you mean 8GiB? (--memory)"),
    "no seeds": (["generate", PROMPT, "--seed", "x"], "'x' is not a list of seeds: write one (7)"),
    "seeds backwards": (["generate", PROMPT, "--seed", "5-2"], "'5-2' is not a range of seeds"),
    "a seed twice": (["generate", PROMPT, "--seed", "1,1"], "a seed is named twice"),
    "unknown dtype": (["generate", PROMPT, "--dtype", "int8"], "dtype cannot be 'int8'"),
    "no such device": (["generate", PROMPT, "--device", "cuda:99"], "the device 'cuda:99' cannot be used here"),
    "not a size": (["generate", PROMPT, "--size", "64"], "'64' is not a size: write height and width"),
    "not memory": (["generate", PROMPT, "--memory", "much"], "'much' is not an amount of memory"),
    "too little memory": (
        ["generate", PROMPT, "--memory", "1MB", "--steps", "2", "--seed", "0"],
        "1.0 MB of memory: choose a smaller size, a smaller loss network, or more memory (--memory)",
    ),
    "negative rate": ([*HEART, "--rate", "-1"], "rate cannot be '-1': input should be greater than 0"),
    "not a number": ([*HEART[:2], "--loss", "aesthetic=high"], "target cannot be 'high'"),
    "no run": (["resume", "nowhere"], "nowhere is not a run's folder: name one that chainrule wrote"),
    "an empty folder": (["resume", "."], ". holds no run (no spec.json)"),
    "no spec": (["run", "nowhere.json"], "there is no file nowhere.json: name the spec of a run"),
    "not a spec": (["run", __file__], "is not JSON"),
    "missing picture": (["rerun", "nowhere.png"], "there is no file nowhere.png"),
    "not an image": (["rerun", __file__], "is not an image"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    code, output = call(*arguments)
    assert code == 2, output
    assert message in output
    assert output.startswith("error:")
    assert output.count("error:") == 1
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())


def test_only_the_command_line_knows_its_options() -> None:
    """An error says what is to blame by its field: a page would write it otherwise."""
    source = Path(chainrule.__file__).parent
    for path in source.rglob("*.py"):
        if path.is_relative_to(source / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError":
                assert "--" not in ast.unparse(node), f"{path}:{node.lineno}"


def test_an_output_that_is_taken_or_unwritable_is_refused_and_nothing_is_lost(
    guided: Path, tmp_path: Path
) -> None:
    before = images(guided)
    code, output = call(*GUIDE, "--mix", "0.9", "--output", guided)
    wanted = (
        f"error: {guided} is not empty: choose another, or `chainrule resume {guided}` (--output)"
    )
    assert (code, output) == (2, wanted)
    assert images(guided) == before
    (tmp_path / "file").write_text("")
    code, output = call("generate", PROMPT, "--steps", "1", "--output", tmp_path / "file" / "run")
    assert (code, "cannot be written" in output, output.endswith("(--output)")) == (2, True, True)


def test_a_file_is_not_a_run(guided: Path) -> None:
    code, output = call("resume", guided / "contact-sheet.png")
    assert (code, "is not a run's folder" in output) == (2, True)


def test_a_picture_of_someone_else_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    code, output = call("rerun", tmp_path / "other.png")
    assert (code, "carries no settings" in output) == (2, True)


def test_a_nan_loss_keeps_what_there_is(
    guided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chainrule.losses import Classifier

    original, count = Classifier.__call__, iter(range(100))

    def sometimes_nan(
        self, images
    ):  # a call for each draw of the start; two an iteration: the crops, the whole image
        return original(self, images) * (float("nan") if next(count) >= 2 + 4 else 1.0)

    only = ["--method", "doodl", *GUIDE[10:]]
    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "__call__", sometimes_nan)
        code, output = call(*GUIDE[:4], *only, "--output", tmp_path / "nan")
    assert code == 2
    assert "the loss classifier=heart is nan in iteration 2" in output
    kept = images(tmp_path / "nan")
    code, output = call(
        "rerun", tmp_path / "nan" / "images" / "doodl-0000.png", "--output", tmp_path / "again"
    )
    assert code == 0, output
    assert (
        images(tmp_path / "again") == kept
    )  # the two iterations that were done, not the four that were asked for
