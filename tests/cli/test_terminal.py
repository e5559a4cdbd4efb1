"""The command line tells the truth: at a stop, of what cannot be, to who has stopped reading."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import Tensor

from chainrule.bundled import SCENES
from chainrule.cli._terminal import _Display
from chainrule.cli.ask import COMMANDS
from chainrule.errors import LONGEST
from chainrule.losses.base import Call
from chainrule.memory import Plan
from chainrule.methods import METHODS
from chainrule.methods.base import SEARCH, Task
from chainrule.methods.best_of import draw_best
from chainrule.runs import Done, Iteration, MethodBegun, PictureReady, Step
from chainrule.scenes.base import Scene, Thing, render
from command import call, images
from conftest import tiny_model

PROMPT = "a red shape on a white background"
DRAW = ["generate", PROMPT, "--seed", "0", "--steps", "1"]
COMMAND = [sys.executable, "-m", "chainrule"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="where it is cannot be seen here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_stopped_while_it_is_imported_it_says_so(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, *DRAW, "-o", str(tmp_path / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text():
        assert process.poll() is None, "it ended before it began"
        time.sleep(0.005)
    process.send_signal(number)
    out, said = process.communicate()
    assert (process.returncode, out, said) == (
        128 + number, "", "stopped before anything was made\n",
    )  # fmt: skip
    assert not (tmp_path / "run").exists()


def shell(line: str, folder: Path) -> subprocess.CompletedProcess:
    line = line.replace("chainrule", " ".join(COMMAND))
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, check=False
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("chainrule methods | head -1", 0),
        pytest.param(f"chainrule {' '.join(DRAW[:1])} '{PROMPT}' --seed 0 --steps 1 >&-", 0, marks=pytest.mark.slow),
        pytest.param(f"chainrule {' '.join(DRAW[:1])} '{PROMPT}' --seed 0 --steps 1 2>&-", 0, marks=pytest.mark.slow),
        pytest.param("chainrule methods sdedit > /dev/full", 2, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_who_reads_no_more_gets_no_traceback(line: str, code: int, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert "Traceback" not in done.stderr
    assert (done.returncode, len(done.stdout.splitlines()) <= 1) == (code, True), done.stderr


def test_the_report_can_be_read_by_a_program(tmp_path: Path) -> None:
    code, output = call(*DRAW, "-o", tmp_path / "run", "--json", "--quiet")
    assert code == 0, output
    report = json.loads(output)
    assert report["picture"] == str(tmp_path / "run" / "contact-sheet.png")
    assert report["seeds"] == [0]
    assert report["methods"]["plain"]["finished"]


def test_what_is_loaded_is_said_and_of_a_picture_only_with_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one's own folder and spec it is said; a picture may be a stranger's."""
    monkeypatch.chdir(tmp_path)
    loss = {"kind": "classifier", "target": "heart", "classifier": str(SCENES.classifier)}
    spec = {
        "inputs": {"prompt": PROMPT},
        "losses": [loss],
        "methods": [{"kind": "plain", "steps": 1}],
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    said = f"loads {SCENES.classifier}"
    code, output = call("run", "spec.json", "-o", "run")
    assert (code, said in output) == (0, True), output
    assert "no method here follows the loss: it only scores" in output
    code, output = call("resume", "run")
    assert (code, said in output) == (0, True), output
    code, output = call("rerun", "run/contact-sheet.png", "-o", "again")
    assert code == 2
    assert output == (
        "error: run/contact-sheet.png names networks that chainrule does not bring: "
        f"{SCENES.classifier}: say that you trust them if you do, or name the model yourself "
        "(--trust, --model)"
    )
    code, output = call("rerun", "run/contact-sheet.png", "-o", "again", "--trust")
    assert (code, said in output) == (0, True), output
    assert images(tmp_path / "again") == images(tmp_path / "run")


def test_photos_can_be_estimated(tmp_path: Path) -> None:
    render(Scene((Thing("circle", "red", 22, 26, 15),), "white")).save(tmp_path / "photo.png")
    code, output = call(
        "estimate",
        "a heart",
        "--photo",
        tmp_path / "photo.png",
        "--method",
        "sdedit",
        "--steps",
        "3",
    )
    assert code == 0, output
    assert "sdedit" in output


# --- what cannot be -----------------------------------------------------------------------------

ODD = {
    "brackets": "[red]x[/red][/nothing",
    "bytes": "caf\udce9",
    "NUL": "a\0b",
    "long": "x" * 5000,
    "deep": "/".join("x" * 3000),
    "nobody's home": "~nosuchuser/x",
    "escape": "\x1b[31mred\x1b[0m",
    "lines": "a\nb",
    "a folder": "folder",
    "empty": "",
}
PLACES = {
    "model": [*DRAW, "--model"],
    "lora": [*DRAW, "--lora"],
    "embedding": [*DRAW, "--embedding"],
    "variant": [*DRAW, "--variant", "x", "--model"],
    "device": [*DRAW, "--device"],
    "dtype": [*DRAW, "--dtype"],
    "size": [*DRAW, "--size"],
    "seed": [*DRAW[:2], "--seed"],
    "memory": [*DRAW, "--memory"],
    "setting": [*DRAW, "--solver"],
    "method": [*DRAW, "--method"],
    "unknown option": [*DRAW, "--nothing"],
    "loss": ["guide", PROMPT, "--loss"],
    "class": ["guide", PROMPT, "--loss", "classifier={}"],
    "target": ["guide", PROMPT, "--loss", "picture={}"],
    "classifier": ["guide", PROMPT, "--loss", "classifier=heart", "--classifier"],
    "clip": ["guide", PROMPT, "--loss", "text=x", "--clip"],
    "rater": ["guide", PROMPT, "--loss", "aesthetic=9", "--rater"],
    "preset": ["guide", PROMPT, "--loss", "classifier=heart", "--preset"],
    "photo": ["edit", "{}", "--prompt", "x"],
    "mask": ["edit", "photo.png", "--prompt", "x", "--mask"],
    "prompts": ["tune", "photo.png", "--prompts"],
    "picture": ["rerun"],
    "spec": ["run"],
    "run": ["resume"],
    "method's name": ["methods"],
}


@pytest.mark.parametrize("place", PLACES)
def test_odd_words_anywhere_are_one_sentence(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, word in ODD.items():
        if (place, name) in MEANT:
            continue
        words = [part.replace("{}", word) for part in PLACES[place]]
        if words == PLACES[place]:
            words.append(word)
        code, output = call(*words)
        assert code == 2, (name, output[-500:])
        assert output.count("error:") == 1 or output.startswith("Usage:"), (name, output[-500:])
        assert len(output) < 2 * LONGEST + 100, name
        assert "\x1b" not in output, name


MEANT = {("embedding", "empty"), ("lora", "empty"), ("model", "empty"), ("variant", "empty"), ("classifier", "empty"), ("rater", "empty"), ("clip", "empty"), ("clip", "a folder")}  # fmt: skip


@pytest.mark.parametrize(
    "device", ["cpu:7", "hpu", "meta", "mps", "cuda:99", "xla", "privateuseone", "banana", "cpu:-1"]
)
def test_a_device_that_is_not_here_is_one_sentence(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call(*DRAW, "--device", device)
    said = f"error: the device '{device}' cannot be used here: choose another, for example cpu (--device)"
    assert (code, output) == (2, said)


def test_in_a_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (
        DRAW,
        ["edit", "photo.png", "--prompt", "x"],
        ["resume", "run"],
        ["rerun", "x.png"],
    ):
        code, output = call(*words)
        assert (code, output.count("error:"), "Traceback" in output) == (2, 1, False), output


def test_too_many_seeds_are_not_listed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call(*DRAW[:2], "--seed", "0-2147483646")
    assert (code, "names too many seeds: name at most 10000" in output) == (2, True)


# --- bars ---------------------------------------------------------------------------------------


def show(*events: object) -> list[tuple[float, float | None]]:
    """(done, of how many) of the bar of iterations and of that of steps."""
    display = _Display(quiet=True)
    for event in events:
        display.show(event)  # type: ignore[arg-type]
    return [(task.completed, task.total) for task in display.progress.tasks]


def test_a_run_that_was_good_enough_early_ends_with_a_full_bar(tmp_path: Path) -> None:
    early = [MethodBegun("doodl", 31), Iteration("doodl", 15, 31, {"best": 0.1})]
    assert show(*early)[0] == (15, 31)
    assert show(*early, PictureReady("doodl", tmp_path))[0] == (15, 15)
    assert show(*early, Done(tmp_path, tmp_path))[0] == (15, 15)


def test_the_bar_is_called_after_the_part_that_runs() -> None:
    """And counts what was asked for: the noise that the last iteration left is judged besides."""
    display = _Display(quiet=True)
    begun = MethodBegun("doodl", 32, 0, SEARCH)
    shown = []
    for event in (
        begun,
        Iteration("doodl", 32, 32, {}, SEARCH),
        Iteration("doodl", 1, 6, {}),
        Iteration("doodl", 6, 6, {}),
        Iteration("doodl", 6, 6, {}),
        MethodBegun("sdedit", None),
    ):
        display.show(event)
        bar = display.progress.tasks[0]
        shown.append((bar.description, bar.completed, bar.total, bar.visible))
    assert shown[:2] == [(SEARCH, 0, 32, True), (SEARCH, 32, 32, True)]
    assert shown[2:5] == [("iteration", k, 6, True) for k in (1, 6, 6)]
    assert not shown[5][3]


COUNTED = [
    kind
    for kind, method in METHODS.own.items()
    if "iterations" in method.model_fields and kind != "audit"  # which has so many for each radius
]


@pytest.mark.parametrize("kind", COUNTED)
def test_iterations_are_counted_as_they_are_asked_for(kind: str) -> None:
    """Of every method that has so many: what it judges at last is not one."""
    task = Task(tiny_model(), tiny_model().denoiser(""), (0,))
    first = {"embedding_iterations": 0} if kind == "imagic" else {}  # its phases count together
    asked = METHODS[kind](iterations=6, **first)
    count = asked.count_iterations(task)
    assert [asked.stage(task, k)[:2] for k in (1, count)] == [(1, 6), (6, 6)]


def test_no_switch_is_shown_with_a_value() -> None:
    """In any command's help, and in that of all."""
    for name in ("", *(each.name for each in COMMANDS), "run", "resume", "rerun", "methods"):
        code, output = call(*([name] if name else []), "--help")
        assert (code, "--help" in output, "bool" in output.lower()) == (0, True, False), name


def test_a_second_chain_begins_its_bar_anew() -> None:
    chain = [Step("doodl", done, 4) for done in (1, 2, 3, 4)]
    assert show(MethodBegun("doodl", 3), *chain)[1] == (4, 4)
    assert show(MethodBegun("doodl", 3), *chain, Step("doodl", 1, 6))[1] == (1, 6)


def test_a_search_of_draws_is_one_bar_that_moves(tmp_path: Path) -> None:
    """Whatever is drawn at once: three draws of two images in two steps each."""
    model = tiny_model()
    for size in (None, 1):
        task = Task(
            model, model.denoiser("a cat"), (0, 1), Call(_bright), plan=Plan(batch_size=size)
        )
        seen: list[tuple[int, int]] = []
        draw_best(
            task, 3, steps=2, on_step=lambda done, total, seen=seen: seen.append((done, total))
        )
        total = 6 if size is None else 12
        assert seen == [(done, total) for done in range(1, total + 1)]


def _bright(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))
