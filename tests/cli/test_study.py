"""`chainrule study`: made, served and counted as its owner does it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chainrule.cli import study as commands
from chainrule.cli._app import app
from chainrule.study import PROTOCOLS, StudyFolder
from command import call
from studies import fill, make_study, prefer, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.mark.parametrize("command", [[], ["new"], ["serve"], ["results"]], ids=" ".join)
def test_help_is_short(command: list[str]) -> None:
    wide = {"COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    said = CliRunner().invoke(app, ["study", *command, "--help"], env=wide).output
    assert 10 < len(said.splitlines()) <= 70


def test_a_study_is_made_and_counted(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    code, output = call(
        "study", "new", run, "--methods", "doodl, plain", "--question", "Which is nicer?",
        "--no-prompt", "--raters", 5, "--per-rater", 3, "--checks", 1, "--seed", 7, "-o", folder,
    )  # fmt: skip
    assert code == 0, output
    assert "4 questions about doodl, plain; each of 5 raters answers 3, and 1 checks" in output
    assert output.endswith(str(folder))
    made = StudyFolder.open(folder)
    study = made.study
    assert (study.methods, study.raters, study.per_rater, study.seed) == (
        ("doodl", "plain"),
        5,
        3,
        7,
    )
    assert (study.protocol.question, study.protocol.show_prompt) == ("Which is nicer?", False)
    code, output = call("study", "results", folder)
    assert (code, "There are no answers that count yet." in output) == (0, True)
    for rater in (1, 2):
        fill(made, rater, prefer("doodl"))
    fill(made, 3, prefer("plain"), attentive=False)
    code, output = call("study", "results", folder, "--csv", tmp_path / "answers.csv")
    assert code == 0
    for part in (
        "doodl better or both 100.0 % [51.0, 100.0]", "(chance) better or both 50.0 %", "doodl / plain 6 0 0 0 4-0-0",
        "alpha is not defined" if "not defined" in output else "alpha (nominal)", "Rater 3 is left out",
        "2 raters of 5 did not begin.", str(folder / "report.html"),
    ):  # fmt: skip
        assert part in output
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 1 + 3 * 4
    told = json.loads((folder / "report.json").read_text())
    assert told["methods"]["doodl"]["better"]["answers"]["rate"] == 1
    code, output = call("study", "results", folder, "--json")
    assert json.loads(output) == told


def test_a_free_question_has_its_own_answers(run: Path, tmp_path: Path) -> None:
    code, output = call(
        "study", "new", run, "--protocol", "free", "--question", "Calm?", "--answer", "Very",
        "--answer", "Partly", "--answer", "No", "--success", "Very", "--success", "Partly", "-o", tmp_path / "s",
    )  # fmt: skip
    assert code == 0, output
    protocol = StudyFolder.open(tmp_path / "s").study.protocol
    assert [each.value for each in protocol.choices] == ["Very", "Partly", "No"]
    assert protocol.bars == {"success": {"Very", "Partly"}}


@pytest.mark.parametrize(("typed", "said"), [
    (["--protocol", "pairwse"], "error: there is no protocol 'pairwse': did you mean pairwise?"),
    (["--methods", "doodle"], "no pictures of 'doodle': did you mean doodl? (--methods)"),
    (["--against", "x"], "(--against)"), (["--answer", "a"], "Pairwise has no setting 'answers'"),
    (["--protocol", "free"], "question is missing"), (["--protocol", "edit"], "has no original to show: name the run of an edit (--protocol)"),
    (["--raters", "0"], "raters cannot be 0: choose at least 1 (--raters)"),
    (["--protocol", "free", "--question", "Q", "--answer", "a", "--answer", "a"], "(--answer)"),
])  # fmt: skip
def test_what_cannot_be_is_one_sentence(
    typed: list[str], said: str, run: Path, tmp_path: Path
) -> None:
    code, output = call("study", "new", run, *typed, "-o", tmp_path / "s")
    assert (code, said in output, output) == (2, True, output)
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_none_is_one_sentence(run: Path, tmp_path: Path) -> None:
    for words in (["results", run], ["serve", run]):
        code, output = call("study", *words)
        assert (code, f"{run} holds no study (no study.json)" in output) == (2, True)
    code, output = call("study", "new", tmp_path / "no", "-o", tmp_path / "s")
    assert (code, "is not a run's folder" in output) == (2, True)
    code, output = call("study", "new", run, "-o", run)
    assert (code, "is not empty: choose another (--folder)" in output) == (2, True)


def test_runs_are_named(run: Path, tmp_path: Path) -> None:
    typed = [f"old={run}", f"new={run}"]
    code, output = call(
        "study", "new", *typed, "--methods", "old plain,new plain", "-o", tmp_path / "s"
    )
    assert (code, "about old plain, new plain" in output) == (0, True), output
    for wrong in ([str(run), f"new={run}"], [f"a={run}", f"a={run}"]):
        code, output = call("study", "new", *wrong, "-o", tmp_path / "t")
        assert code == 2
        assert output == "error: some runs have names, and not each its own: name all of them"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be served, without serving it."""
    found: list[Any] = []
    monkeypatch.setattr(commands, "run_server", lambda app, listening: found.append(app))
    return found


def test_links_are_printed_once(tmp_path: Path, served: list[Any]) -> None:
    made = make_study(tmp_path, seeds=(0,), raters=3)
    code, output = call("study", "serve", made.path, "--port", 0)
    links = re.findall(r"rater (\d): http://127\.0\.0\.1:\d+/r/([\w-]+)", output)
    assert (code, [number for number, _ in links]) == (0, ["1", "2", "3"])
    assert [made.answers.find_rater(token) for _, token in links] == [1, 2, 3]
    code, output = call("study", "serve", made.path, "--port", 0)
    assert (code, "/r/" in output, "--new-links makes others" in output) == (0, False, True)
    code, output = call(
        "study", "serve", made.path, "--port", 0, "--new-links", "--host", "0.0.0.0", "--allow", "study.example.org"
    )  # fmt: skip
    others = re.findall(r"http://study\.example\.org:\d+/r/([\w-]+)", output)
    assert (code, len(others), len(served)) == (0, 3, 3)
    assert made.answers.find_rater(links[0][1]) is None


def test_it_is_not_opened_to_others_by_chance(tmp_path: Path, served: list[Any]) -> None:
    made = make_study(tmp_path, seeds=(0,))
    code, output = call("study", "serve", made.path, "--host", "0.0.0.0")
    assert (code, "nobody said by which name" in output, "(--allow)" in output) == (2, True, True)
    code, output = call("study", "serve", made.path, "--port", 0, "--allow", "*")
    assert (code, "'*' is not the name of a host" in output) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = call("study", "serve", made.path, "--port", port)
    assert (code, f"port {port} at 127.0.0.1 cannot be used" in output, "(--port)" in output) == (
        2,
        True,
        True,
    )
    assert (served, made.answers.count_tokens()) == ([], 0)


def test_it_is_served_until_it_is_stopped(tmp_path: Path) -> None:
    """By a real server: a link works, an answer is kept, Ctrl-C ends it with a word."""
    made = make_study(tmp_path, seeds=(0,), raters=1, checks=0, methods=("plain", "doodl"))
    process = subprocess.Popen(
        [sys.executable, "-m", "chainrule", "study", "serve", str(made.path), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        link = process.stdout.readline().split()[-1]
        page = urllib.request.urlopen(link, timeout=60).read().decode()
        name = re.findall(r'name="question" value="(\w+)"', page)[0]
        picture = re.findall(r'<img src="([^"]+)"', page)[0]
        sent = urllib.request.urlopen(urllib.parse.urljoin(link, picture), timeout=60)
        assert sent.read().startswith(b"\x89PNG")
        form = urllib.parse.urlencode({"question": name, "choice": "both"}).encode()
        after = urllib.request.urlopen(link, form, timeout=60).read().decode()
        assert "All questions are answered" in after
        foreign = urllib.request.Request(link, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(foreign, timeout=60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (130, f"stopped; all answers are in {made.path}\n")
    assert [each.choice for each in made.answers.read_all()] == ["both"]
    assert link.rpartition("/")[2] not in said


PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
TYPED = re.findall(r"^chainrule study .+$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", TYPED)
def test_what_the_page_says_can_be_typed(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is: it is the folder that is missed, not an option."""
    monkeypatch.chdir(tmp_path)
    code, output = call(*shlex.split(line)[1:])
    assert code == 2
    assert re.search("holds no study|is not a run's folder", output)


def test_the_page_knows_every_protocol_and_option() -> None:
    rows = re.findall(r"^\| `(\w[\w-]*)` \|", PAGE, re.MULTILINE)
    assert rows == list(PROTOCOLS.own)
    help_ = CliRunner().invoke(app, ["study", "new", "--help"]).output
    for option in re.findall(r"`(--[a-z-]+)`", PAGE):
        others = ("--new-links", "--no-prompt")
        assert option in help_ or option in others, option
