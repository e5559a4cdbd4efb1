"""Runs wait for one another, are stopped and gone on with, and survive whatever stops the program."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chainrule import UserError
from chainrule.runs import RunSpec, execute, parse_spec
from chainrule.runs.folder import SPEC, Folder
from chainrule.studio.desk import ANEW, STRIPS, Desk, Entry
from command import contents


def spec(seed: int = 0, iterations: int = 3) -> RunSpec:
    doodl = {"kind": "doodl", "iterations": iterations, "steps": 2, "crops": 0, "mix": None}
    return parse_spec(
        {
            "inputs": {"prompt": "a red circle", "seed": (seed,)},
            "losses": [{"kind": "brightness", "target": 0.9}],
            "methods": [{"kind": "plain", "steps": 2}, doodl],
        }
    )


def wait(desk: Desk, name: str, *status: str, looks: int = 6000) -> Entry:
    for _ in range(looks):
        found = desk.find(name)
        if found.status in status:
            return found
        assert found.status != "failed", found
        time.sleep(0.02)
    raise AssertionError(found)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "runs")
    yield made
    made.close()


def test_runs_are_done_in_their_order_one_at_a_time(desk: Desk) -> None:
    names = [desk.add(spec(seed), "A Heart!")[0] for seed in range(3)]
    assert names == ["a-heart", "a-heart-2", "a-heart-3"]
    assert [entry.status for entry in desk.entries()] == ["waiting"] * 3
    desk.start()
    wait(desk, names[2], "done")
    assert [entry.status for entry in desk.entries()] == ["done"] * 3
    for name in names:
        assert (desk.path(name) / "contact-sheet.png").is_file()
        assert desk.watch(name).now.finished


def test_a_stop_keeps_the_best_and_going_on_ends_as_if_nothing_had_been(
    desk: Desk, tmp_path: Path
) -> None:
    name, _ = desk.add(spec(iterations=12))
    desk.start()
    while desk.watch(name).now.done < 2 or desk.watch(name).now.label != "doodl":
        time.sleep(0.01)
    desk.stop(name)
    wait(desk, name, "stopped")
    assert list((desk.path(name) / "images").glob("doodl-*.png"))
    assert desk.watch(name).now.done < 12
    desk.go_on(name)
    wait(desk, name, "done")
    for _ in execute(spec(iterations=12), tmp_path / "whole"):
        pass
    mine, whole = (contents(path) for path in (desk.path(name), tmp_path / "whole"))
    assert mine.keys() == whole.keys()
    assert all(mine[each] == whole[each] for each in whole if each.endswith(".png"))


def test_what_waits_can_be_stopped_before_it_begins(desk: Desk) -> None:
    (one, _), (other, _) = desk.add(spec(0)), desk.add(spec(1))
    desk.stop(one)
    desk.start()
    wait(desk, other, "done")
    assert desk.find(one).status == "stopped"
    desk.go_on(one)
    wait(desk, one, "done")


def test_one_that_fails_says_why_and_the_next_has_its_turn(desk: Desk) -> None:
    (bad, _), (good, _) = desk.add(spec(0)), desk.add(spec(1))
    (desk.path(bad) / SPEC).write_text("{}")
    desk.start()
    assert "is not what it was" in wait(desk, bad, "failed").reason
    wait(desk, good, "done")


def test_a_closed_program_s_run_waits_again(tmp_path: Path) -> None:
    first = Desk(tmp_path)
    name, _ = first.add(spec(iterations=500))
    first.start()
    wait(first, name, "running")
    first.close()
    assert first.find(name).status == "waiting"


WORK = """
import sys
from chainrule.studio.desk import Desk
desk = Desk(sys.argv[1])
desk.start()
desk._thread.join()
"""


def test_a_killed_program_s_run_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    name, _ = desk.add(spec(iterations=10))
    process = subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path)])
    state = desk.path(name) / "doodl.safetensors"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert desk.find(name).status == "running"
    again = Desk(tmp_path)
    assert again.find(name).status == "waiting"
    again.start()
    wait(again, name, "done")
    assert again.watch(name).now.done == 10
    again.close()


def test_a_time_pays_for_the_budget_when_the_run_has_its_turn(desk: Desk) -> None:
    hybrid = {"kind": "hybrid", "budget": 7, "steps": 4}
    losses = [{"kind": "brightness", "target": 0.9}]
    methods = [{"kind": "plain", "steps": 2}, hybrid]
    asked = parse_spec({"inputs": {"prompt": "a star"}, "losses": losses, "methods": methods})
    name, _ = desk.add(asked, seconds=3.0)
    assert Folder.open(desk.path(name)).spec.methods[1].budget == 7
    desk.start()
    wait(desk, name, "done")
    paid = Folder.open(desk.path(name)).spec.methods[1].budget
    assert f"3 s pay for {paid} passes of the network here" in desk.watch(name).now.notes
    with pytest.raises(UserError, match="a time is for methods with a budget"):
        desk.add(spec(), seconds=3.0)


def test_a_folder_that_was_made_anew_when_the_program_was_killed_takes_its_place(
    desk: Desk,
) -> None:
    name, _ = desk.add(spec(0))
    Folder.create(desk.side(ANEW) / name, spec(1))
    (desk.path(name) / SPEC).unlink()  # killed while the old one was deleted
    desk.start()
    wait(desk, name, "done")
    assert Folder.open(desk.path(name)).spec.inputs.seed == (1,)
    assert not (desk.side(ANEW) / name).exists()


def test_an_estimate_is_of_one_run_alone(desk: Desk) -> None:
    (plain, doodl) = desk.estimate(spec())
    assert (plain.label, doodl.label) == ("plain", "doodl")
    assert doodl.peak > doodl.weights > 0
    assert doodl.passes
    name, _ = desk.add(spec(iterations=500))
    desk.start()
    wait(desk, name, "running")
    while not desk.watch(name).now.label:
        time.sleep(0.01)
    with pytest.raises(UserError, match="a run is at work"):
        desk.estimate(spec())
    desk.stop(name)
    wait(desk, name, "stopped")


def test_many_who_begin_at_once_have_a_run_each(desk: Desk) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda seed: desk.add(spec(seed), "same")[0], range(20)))
    assert len(set(names)) == 20
    for seed, name in enumerate(names):
        assert Folder.open(desk.path(name)).spec.inputs.seed == (seed,)


def test_a_run_whose_folder_was_deleted_is_gone_and_its_name_is_free(desk: Desk) -> None:
    name, _ = desk.add(spec(0))
    strip = desk.side(STRIPS) / name
    strip.mkdir(parents=True)
    (strip / "strip.json").write_text("{}")
    shutil.rmtree(desk.path(name))
    assert desk.entries() == []
    again, _ = desk.add(spec(1))
    assert again == name
    assert not strip.exists()
    assert [entry.status for entry in desk.entries()] == ["waiting"]


def test_only_who_began_a_run_stops_it_where_that_is_switched_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, guarded=True)
    name, token = desk.add(spec())
    for wrong in ("", "x", token[:-1]):
        with pytest.raises(UserError, match="was begun by somebody else"):
            desk.stop(name, wrong)
        with pytest.raises(UserError, match="was begun by somebody else"):
            desk.go_on(name, wrong)
    assert desk.find(name).status == "waiting"
    desk.stop(name, token)
    assert desk.find(name).status == "stopped"
    assert token not in (tmp_path / "queue.sqlite").read_bytes().decode(errors="ignore")


@pytest.mark.parametrize(
    "name", ["..", "../other", "/etc", ".hidden", "", "a/b", "a\\b", "A", "x" * 99, "run\0", "link"]
)
def test_what_is_no_name_of_a_run_leads_nowhere(desk: Desk, name: str, tmp_path: Path) -> None:
    own, _ = desk.add(spec())
    shutil.copytree(desk.path(own), tmp_path / "other")
    (desk.folder / "link").symlink_to(tmp_path / "other")
    assert desk.path(own) == desk.folder / own
    with pytest.raises(UserError, match="there is no run"):
        desk.path(name)
