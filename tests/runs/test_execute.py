"""Whatever stops a run, it keeps the best so far, and goes on as if nothing had been."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tiny
from chainrule.bundled import SCENES
from chainrule.errors import UserError
from chainrule.images import to_pil
from chainrule.methods import DOODL as Optimised  # noqa: N811
from chainrule.methods import BestOf, Plain
from chainrule.methods.base import SEARCH
from chainrule.models import Model
from chainrule.runs import (
    Done,
    Event,
    Iteration,
    MethodBegun,
    PictureReady,
    RunSpec,
    Step,
    Warned,
    execute,
    parse_spec,
    resume,
)
from chainrule.runs.folder import Folder
from chainrule.runs.load import load_task
from chainrule.runs.origin import find_run
from command import contents
from conftest import tiny_model

BRIGHT = [
    {"kind": "brightness", "target": 0.9},
    {"kind": "brightness", "weight": 2.0, "target": 0.5},
]
OPTIMISED = {
    "kind": "doodl", "iterations": 2, "steps": 2, "crops": 2, "start_of": 2, "mix": None, "final_steps": 3,
    "optimiser": {"kind": "momentum", "rate": 20.0, "clip": None},
}  # fmt: skip
LIGHT = parse_spec(
    {
        "inputs": {"prompt": "a cat", "seed": (0, 1)},
        "losses": BRIGHT,
        "methods": [
            {"kind": "plain", "steps": 2},
            OPTIMISED,
            {"kind": "adjoint-dpm", "steps": 2, "iterations": 1},
        ],
    }
)
"""A run that takes a moment: tiny networks, known to `execute` by the `model` that it is given."""


def network(name: str) -> Model:
    if name == "light":
        return tiny_model()
    return tiny.load_once("scenes" if name == "audit" else "Stable Diffusion 1.x")


def files() -> Path:
    folder = Path(mkdtemp())
    for name, flip in (("before", False), ("after", True)):
        picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
        to_pil(picture.flip(0) if flip else picture).save(folder / f"{name}.png")
    return folder


def ask(name: str) -> RunSpec:
    """The run of each name."""
    folder = files()
    learnt: dict[str, dict[str, Any]] = {
        "effect": {
            "inputs": {"prompt": "a cat", "pictures": (folder / "before.png", folder / "after.png")},
            "methods": [{"kind": "effect", "vectors": 2, "iterations": 2, "steps": 2}],
        },
        "stylize": {
            "inputs": {"prompt": ("a cat", "a dog"), "seed": (0, 1), "pictures": (folder / "after.png",)},
            "methods": [
                {
                    "kind": "stylize", "epochs": 1, "batch": 2, "steps": 2, "rank": 2, "other_seeds": (100,),
                    "features": str(SCENES.classifier),
                }
            ],
        },
        "audit": {
            "inputs": {"prompt": ("a red circle on a white background",), "seed": (0, 1)},
            "methods": [{"kind": "audit", "tau": (0.3,), "iterations": 2, "steps": 2}],
        },
    }  # fmt: skip
    return LIGHT if name == "light" else parse_spec(learnt[name])


NAMES = ("light", "effect", "stylize", "audit")


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[RunSpec, Path, list[Event]]]:
    """The spec, the folder and the events of a run that was never stopped."""
    done: dict[str, tuple[RunSpec, Path, list[Event]]] = {}

    def find(name: str) -> tuple[RunSpec, Path, list[Event]]:
        if name not in done:
            spec, folder = ask(name), tmp_path_factory.mktemp("whole") / name
            done[name] = spec, folder, list(execute(spec, folder, network(name)))
        return done[name]

    return find


def stop(events: Iterator[Event], kind: type[Event] | None, count: int) -> list[Event]:
    """Follow a run up to the event of that number (of a kind), and close it there."""
    seen: list[Event] = []
    for event in events:
        seen.append(event)
        count -= kind is None or isinstance(event, kind)
        if count == 0:
            break
    events.close()  # type: ignore[attr-defined]
    return seen


def check_stopped(spec: RunSpec, folder: Path, seen: list[Event]) -> None:
    """What there was when it stopped is there, and nothing half-written."""
    made = {event.label: event.done for event in seen if isinstance(event, Iteration)}
    report = json.loads((folder / "report.json").read_text())
    assert {label: entry["iterations"] for label, entry in report["methods"].items()} == made
    assert (folder / "contact-sheet.png").is_file()
    assert not list(folder.rglob(".part-*"))
    for label, method in spec.labelled():
        drawn = (
            list((folder / "images").glob(f"{label}-*.png")) if (folder / "images").is_dir() else []
        )
        learns = method.kind in ("effect", "stylize", "audit")
        assert len(drawn) == (len(spec.inputs.seed) if label in made and not learns else 0)


STOPS: dict[str, dict[type[Event], tuple[int, ...]]] = {
    "light": {
        MethodBegun: (1, 2, 3),
        Step: (1, 3, 5, 6, 9),
        Iteration: (1, 2, 3, 4, 5, 6, 7, 8, 9),
        PictureReady: (1, 2, 3),
        Done: (1,),
    },
    "effect": {MethodBegun: (1,), Step: (1, 4), Iteration: (1, 2), Done: (1,)},
    "stylize": {MethodBegun: (1,), Iteration: (1, 2)},
    "audit": {Step: (3,), Iteration: (1, 2)},
}


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        (name, kind, count)
        for name in STOPS
        for kind, counts in STOPS[name].items()
        for count in counts
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_closed_at_any_event_it_keeps_the_best_and_goes_on_as_if_nothing_had_been(
    name: str, kind: type[Event], count: int, whole: Callable, tmp_path: Path
) -> None:
    spec, finished, events = whole(name)
    assert sum(isinstance(event, kind) for event in events) >= count
    folder = tmp_path / "run"
    seen = stop(execute(spec, folder, network(name)), kind, count)
    check_stopped(spec, folder, seen)
    list(resume(folder, network(name)))
    assert contents(folder) == contents(finished)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 14), max_size=4))
def test_stopped_again_and_again_it_ends_the_same(whole: Callable, counts: list[int]) -> None:
    spec, finished, _ = whole("light")
    folder = Path(mkdtemp()) / "run"
    for count in counts:
        stop(execute(spec, folder, network("light")), None, count)
    last = list(execute(spec, folder, network("light")))
    assert isinstance(last[-1], Done)
    assert contents(folder) == contents(finished)
    shutil.rmtree(folder)


LETTERS = {MethodBegun: "B", Step: "S", Iteration: "I", PictureReady: "P", Warned: "W", Done: "D"}
ORDER = {
    "light": r"BSSIPP" + r"B(S+I){6}PP" + r"B(S+I){2}PP" + "D",
    "effect": r"B(S+I){3}D",
    "stylize": r"B(S*I){2}D",
    "audit": r"B(S*I){3}D",
}


@pytest.mark.parametrize("name", NAMES)
def test_events_come_in_their_order(name: str, whole: Callable) -> None:
    _, folder, events = whole(name)
    assert re.fullmatch(
        ORDER[name],
        "".join(LETTERS[type(event)] for event in events if not isinstance(event, Warned)),
    )
    for event in events:
        if isinstance(event, Step):
            assert 1 <= event.done <= event.total
        elif isinstance(event, Iteration):
            assert event.total is None or 1 <= event.done <= event.total
            assert all(isinstance(number, float) for number in event.numbers.values())
        elif isinstance(event, (PictureReady, Done)):
            assert (event.path if isinstance(event, PictureReady) else event.picture).is_file()
    assert events[-1] == Done(folder, folder / "contact-sheet.png")


def test_each_iteration_is_on_disk_before_it_is_told(tmp_path: Path) -> None:
    spec, model = ask("light"), network("light")
    for event in execute(spec, tmp_path / "run", model):
        if isinstance(event, Iteration) and event.label == "doodl":
            kept = Folder.open(tmp_path / "run").read_state("doodl", "cpu")
            assert kept is not None
            search = event.part == SEARCH
            assert int(kept.tensors["draws"]) == (event.done if search else event.total)
            judged = len(kept.tensors["terms"])
            assert (0 if search else event.done) == min(judged, event.total)


def test_nothing_happens_before_or_between_what_is_asked_for(tmp_path: Path) -> None:
    model = network("light")
    events = execute(ask("light"), tmp_path / "run", model)
    assert not (tmp_path / "run").exists()
    assert isinstance(next(events), MethodBegun)
    assert model.network.calls == 0
    events.close()  # type: ignore[attr-defined]
    assert model.network.calls == 0
    assert list(events) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_afterwards_as_it_was(name: str, whole: Callable, tmp_path: Path) -> None:
    spec, model = whole(name)[0], network(name)

    def condition() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i, part in enumerate(model.networks):
            for key, value in part.state_dict().items():
                found[f"{i} {key}"] = (value.dtype, value.device, value.numpy().tobytes())
            found[f"{i} wants gradients"] = [weight.requires_grad for weight in part.parameters()]
            hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
            found[f"{i} hooks"] = [
                [len(getattr(module, hook)) for hook in hooks] for module in part.modules()
            ]
        return found

    before = condition()
    list(execute(spec, tmp_path / "run", model))
    assert condition() == before
    stop(execute(spec, tmp_path / "stopped", model), Iteration, 1)
    assert condition() == before
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_a_finished_run_is_not_done_again(whole: Callable, tmp_path: Path) -> None:
    _, finished, _ = whole("light")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    model = network("light")
    events = list(resume(folder, model))
    assert Counter(map(type, events)) == {MethodBegun: 3, PictureReady: 6, Done: 1}
    assert [event.done for event in events if isinstance(event, MethodBegun)] == [1, 2, 1]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} == before
    assert model.network.calls == 0
    assert contents(folder) == contents(finished)


def test_what_a_stop_cost_is_counted_once(whole: Callable, tmp_path: Path) -> None:
    spec, finished, _ = whole("light")
    stop(execute(spec, tmp_path / "run", network("light")), Step, 8)
    list(resume(tmp_path / "run", network("light")))
    one, other = (
        json.loads((folder / "report.json").read_text()) for folder in (finished, tmp_path / "run")
    )
    for label in one["methods"]:
        assert one["methods"][label]["passes"] == other["methods"][label]["passes"] > 0


def test_the_same_run_in_the_same_folder_goes_on_and_another_is_refused(
    whole: Callable, tmp_path: Path
) -> None:
    spec = whole("light")[0]
    stop(execute(spec, tmp_path / "run", network("light")), Iteration, 2)
    other = parse_spec(json.loads(spec.dump()) | {"methods": [{"kind": "plain", "steps": 3}]})
    with pytest.raises(
        UserError, match=r"run is not empty: choose another, or `chainrule resume "
    ) as caught:
        list(execute(other, tmp_path / "run", network("light")))
    assert caught.value.field == "output"
    begun = next(execute(spec, tmp_path / "run", network("light")))
    assert begun == MethodBegun("plain", None, 1)


def test_each_part_of_a_method_is_told_by_its_name_and_counted_as_it_was_asked_for(
    whole: Callable,
) -> None:
    """Two draws and two iterations; the noise that the last one left is judged after it."""
    events = whole("light")[2]
    told = [
        (event.part, event.done, event.total)
        for event in events
        if isinstance(event, (MethodBegun, Iteration)) and event.label == "doodl"
    ]
    search, iterations = [(SEARCH, k, 2) for k in (0, 1, 2)], [("iteration", k, 2) for k in (1, 2)]
    assert told == [*search, *iterations, iterations[-1], iterations[-1]]  # drawn again at the end
    report = json.loads((whole("light")[1] / "report.json").read_text())
    assert report["methods"]["doodl"]["iterations"] == 2


@pytest.mark.parametrize(
    "method",
    [{**OPTIMISED, "start_of": 4}, {"kind": "best-of", "count": 4, "steps": 2}],
    ids=lambda method: method["kind"],
)
def test_a_search_of_draws_that_is_stopped_keeps_its_best_and_goes_on(
    method: dict[str, Any], tmp_path: Path
) -> None:
    spec = parse_spec({**LIGHT.model_dump(), "methods": [method]})
    seen = stop(execute(spec, tmp_path / "run", network("light")), Iteration, 2)
    check_stopped(spec, tmp_path / "run", seen)
    report = json.loads((tmp_path / "run" / "report.json").read_text())["methods"][method["kind"]]
    assert (report["part"], report["iterations"], report["finished"]) == (SEARCH, 2, False)
    two = BestOf(count=2, steps=2)(load_task(LIGHT, network("light")))
    assert report["losses"] == two.losses.tolist()
    picture = tmp_path / "run" / "images" / f"{method['kind']}-0001.png"
    assert Image.open(picture).tobytes() == to_pil(two.images[1]).tobytes()
    list(execute(find_run(picture), tmp_path / "again", network("light")))
    again = tmp_path / "again" / "images" / picture.name
    assert again.read_bytes() == picture.read_bytes()
    resumed, whole = network("light"), network("light")
    list(resume(tmp_path / "run", resumed))
    list(execute(spec, tmp_path / "whole", whole))
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert resumed.network.calls == whole.network.calls - 2 * 2  # the two draws of two steps


def test_stop_after_is_where_it_ends(whole: Callable, tmp_path: Path) -> None:
    """As a picture of a stopped run carries it."""
    spec = whole("light")[0]
    limited = spec.model_copy(update={"stop_after": {"doodl": 2}})
    events = list(execute(limited, tmp_path / "limited", network("light")))
    assert [
        event.done for event in events if isinstance(event, Iteration) and event.label == "doodl"
    ] == [1, 2]
    assert [event.total for event in events if isinstance(event, MethodBegun)] == [None, 2, 1]
    stop(execute(spec, tmp_path / "stopped", network("light")), Iteration, 3)
    names = [f"doodl-000{seed}.png" for seed in (0, 1)]
    for name in names:
        one, other = (tmp_path / folder / "images" / name for folder in ("limited", "stopped"))
        assert one.read_bytes() == other.read_bytes()
    report = json.loads((tmp_path / "limited" / "report.json").read_text())
    assert (report["methods"]["doodl"]["iterations"], report["methods"]["doodl"]["finished"]) == (
        2,
        True,
    )


def test_warnings_of_the_work_are_events_and_those_of_its_reader_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draw = Plain.draw

    def warn_and_draw(self: Plain, *rest: Any, **named: Any) -> Any:
        warnings.warn("it is late", stacklevel=2)
        return draw(self, *rest, **named)

    monkeypatch.setattr(Plain, "draw", warn_and_draw)
    seen = []

    def read() -> None:
        for event in execute(LIGHT, tmp_path / "run", network("light")):
            warnings.warn("by the reader", stacklevel=2)
            seen.append(event)

    with pytest.warns(UserWarning, match="by the reader"):
        read()
    assert [event for event in seen if isinstance(event, Warned)] == [Warned("it is late")]


def test_an_error_of_the_user_keeps_what_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    advance = Optimised.advance

    def fail(self: Optimised, task: Any, state: Any, on_step: Any = None) -> Any:
        if state.judged == 1:
            raise UserError("the loss is nan", "lower the rate")
        return advance(self, task, state, on_step)

    monkeypatch.setattr(Optimised, "advance", fail)
    with pytest.raises(UserError, match="the loss is nan: lower the rate"):
        list(execute(LIGHT, tmp_path / "run", network("light")))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {label: entry["iterations"] for label, entry in report["methods"].items()} == {
        "plain": 1,
        "doodl": 1,
    }
    assert not report["methods"]["doodl"]["finished"]
    monkeypatch.undo()
    list(resume(tmp_path / "run", network("light")))
    assert json.loads((tmp_path / "run" / "report.json").read_text())["methods"]["doodl"][
        "finished"
    ]


def test_a_mistake_leaves_no_folder(tmp_path: Path) -> None:
    missing = parse_spec({"methods": [{"kind": "doodl"}], "inputs": {"prompt": "a cat"}})
    with pytest.raises(UserError, match="doodl needs a loss") as caught:
        list(execute(missing, tmp_path / "run", network("light")))
    assert caught.value.field == "loss"
    assert not (tmp_path / "run").exists()
