"""What a run shows on its way: kept beside it, a small share of its time, and never in its way."""

from __future__ import annotations

import json
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from chainrule.runs import Folder, execute, load_model, parse_spec
from chainrule.runs.events import Iteration
from chainrule.studio import strip as strip_module
from chainrule.studio.desk import Entry
from chainrule.studio.live import Live
from chainrule.studio.strip import FACTS, MOST, SHARE, SHEET_OF_ALL, Look, Shown, Strip, tile
from chainrule.studio.views import draw_curve, show_run, write_seconds
from command import contents


def watch(folder: Path, place: Path, clock: Any, **changes: Any) -> Shown:
    """A run that is looked at as the desk does."""
    doodl = {"kind": "doodl", "iterations": 3, "steps": 2, "crops": 0, "mix": None}
    asked = parse_spec(
        {
            "inputs": {"prompt": "a red circle", "seed": (0, 1)},
            "losses": [{"kind": "classifier", "target": "heart"}, {"kind": "symmetry"}],
            "methods": [{"kind": "plain", "steps": 2}, doodl],
            **changes,
        }
    )
    made, model = Folder.create(folder, asked), load_model(asked.checkpoint)
    told = Strip(place, made, model, clock)
    for event in execute(made.written, folder, model):
        told.tell(event)
    return Shown.read(place)


def test_a_way_has_a_start_its_losses_the_judge_and_an_end(tmp_path: Path) -> None:
    shown = watch(tmp_path / "run", tmp_path / "strip", clock=_leap())
    labels = [look.label for look in shown.looks]
    assert labels[0] == "plain"
    assert labels[-1] == "doodl"
    assert shown.judge == "judge heart"
    last = shown.looks[-1]
    assert last.exact
    assert last.loss is not None
    assert 0 <= (last.score or 0) <= 1
    assert last.norm == pytest.approx(1, abs=0.2)
    assert 0.5 < (last.flatness or 0) <= 1
    report = json.loads((tmp_path / "run" / "report.json").read_text())["methods"]["doodl"]
    assert list(shown.curves) == ["doodl"]
    assert list(shown.curves["doodl"]) == ["classifier=heart", "symmetry"]
    for (_, mine), theirs in zip(
        shown.curves["doodl"].items(), report["terms"].values(), strict=True
    ):
        assert mine == pytest.approx([sum(row) / len(row) for row in theirs], rel=1e-4)
    scores = report["scores"]["judge"]
    assert last.score == pytest.approx(sum(scores) / len(scores), abs=0.02)
    assert {path.name for path in (tmp_path / "strip").iterdir()} == {
        FACTS, *(look.picture for look in shown.looks)
    }  # fmt: skip
    html = show_run(Entry("run", "done"), Live().now, shown)
    assert html.count("<polyline") >= 3
    assert "It still looks like noise." in html


def _leap() -> Any:
    """A clock by which looking takes no time."""
    times = count()
    return lambda: float(next(times) // 2 * 1000)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    watch(tmp_path / "run", tmp_path / "strip", clock=_leap())
    spec = Folder.open(tmp_path / "run").written
    for _ in execute(spec, tmp_path / "alone"):
        pass
    assert contents(tmp_path / "run") == contents(tmp_path / "alone")


def test_looking_waits_until_its_share_of_the_time_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = [0.0], []

    def look(self: Strip, label: str, done: int) -> None:
        looks.append(now[0])
        now[0] += 3.0

    monkeypatch.setattr(Strip, "_look", look)
    asked = parse_spec({"inputs": {"prompt": "a"}, "methods": [{"kind": "plain"}]})
    folder: Any = Folder.create(tmp_path / "run", asked)
    model: Any = None
    told = Strip(tmp_path / "strip", folder, model, lambda: now[0])
    for done in range(1000):
        told.tell(Iteration("plain", done, 1000, {}))
        now[0] += 1.0
    apart = [after - before for before, after in pairwise(looks)]
    assert len(apart) >= 5
    assert all(each >= 3.0 / SHARE for each in apart)


def test_what_goes_wrong_is_in_nobody_s_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(strip_module, "read_latents", fail)
    shown = watch(tmp_path / "run", tmp_path / "strip", clock=_leap())
    assert (tmp_path / "run" / "contact-sheet.png").is_file()
    assert {look.done for look in shown.looks} <= {1, 3, 4}  # what is written in the end is shown


def test_a_training_shows_its_previews_and_its_sheet(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "red").save(photo)
    shown = watch(
        tmp_path / "run", tmp_path / "strip", clock=_leap(), losses=[],
        inputs={"prompt": "{} on white", "pictures": [str(photo)], "seed": (0,)},
        methods=[{"kind": "textual-inversion", "iterations": 40, "steps": 1}],
    )  # fmt: skip
    assert (shown.looks[-1].label, shown.looks[-1].wide) == (SHEET_OF_ALL, True)
    html = show_run(Entry("run", "done"), Live().now, shown)
    assert html.count("<strong>The result") == html.count("<strong>The start") == 1
    assert sum(look.label == "textual-inversion" for look in shown.looks) >= 3


def test_of_many_looks_the_first_and_the_last_are_kept(tmp_path: Path) -> None:
    looks: tuple[Look, ...] = ()
    for done in range(200):
        look = Look("doodl", done, f"{done}.png", True)
        looks, _ = strip_module._thin(*strip_module._put(looks, look))
    assert len(looks) <= MOST
    assert (looks[0].done, looks[-1].done) == (0, 199)


def test_a_later_look_at_the_same_moment_takes_its_place() -> None:
    first, last, again = (
        Look(*each, True) for each in (("plain", 1, "1"), ("doodl", 1, "2"), ("plain", 1, "3"))
    )
    looks, forgotten = strip_module._put((first, last), again)
    assert looks == (again, last)
    assert forgotten == [first]


def test_an_edit_starts_with_the_photo(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (300, 200), "red").save(photo)
    shown = watch(
        tmp_path / "run", tmp_path / "strip", clock=_leap(), losses=[],
        inputs={"prompt": "a", "photo": str(photo), "seed": (0,)},
        methods=[{"kind": "reconstruction"}, {"kind": "sdedit", "steps": 2}],
    )  # fmt: skip
    assert [look.label for look in shown.looks] == ["photo", "reconstruction", "sdedit"]
    html = show_run(Entry("run", "done"), Live().now, shown)
    assert html.count("<strong>The start") == 1
    assert html.count("<strong>The result") == 2


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"looks": [{"x": 1}]}', "\0"])
def test_what_is_damaged_shows_nothing(tmp_path: Path, broken: str) -> None:
    (tmp_path / FACTS).write_text(broken)
    assert Shown.read(tmp_path) == Shown()
    assert Shown.read(tmp_path / "none") == Shown()


def test_pictures_of_any_size_are_tiled() -> None:
    pictures = [Image.new("RGB", size) for size in ((600, 300), (64, 64), (100, 400))]
    assert tile(pictures).size == (2 * 192, 2 * 192)
    assert tile(pictures[1:2]).size == (64, 64)
    assert pictures[0].size == (600, 300)


@pytest.mark.parametrize(
    "values", [[1.0], [1.0, 1.0], [float("nan")], [], [0.0, float("inf"), 2.0], [-3.0, 5.0, 1.0]]
)
def test_a_curve_of_any_numbers_can_be_drawn(values: list[float]) -> None:
    drawn = draw_curve('a "loss" <b>', values)
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert "<b>" not in drawn


def test_times_are_written_for_people() -> None:
    assert write_seconds(59.4) == "59 s"
    assert write_seconds(3599) == "59 min 59 s"


def test_a_pair_s_noise_is_one_of_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    noise = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    save_file({"best_x_T": noise, "best_losses": torch.tensor([1.0, 2.0, 3.0])}, tmp_path / "a")
    found = strip_module._measure(tmp_path / "a")
    assert found["loss"] == 2.0
    assert found["norm"] == pytest.approx(1, abs=0.1)
