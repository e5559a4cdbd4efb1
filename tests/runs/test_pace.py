"""A time is turned into a budget of passes: by what a pass takes here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule import UserError
from chainrule.runs import Folder, pace, parse_spec
from chainrule.runs.pace import measure_pass, parse_time, pay_by_time
from chainrule.runs.spec import RunSpec
from command import call
from tiny import load_once

HEART = [{"kind": "classifier", "target": "heart"}]


def spec(*methods: dict[str, Any]) -> RunSpec:
    return parse_spec(
        {"inputs": {"prompt": "a red shape", "seed": "0"}, "losses": HEART, "methods": methods}
    )


@given(st.integers(1, 10**6), st.sampled_from(sorted(pace.UNITS)))
def test_a_time_is_a_number_and_a_unit(count: int, unit: str) -> None:
    assert parse_time(f"{count}{unit}") == parse_time(f" {count} {unit.upper()} ")
    assert parse_time(f"{count}{unit}") == count * pace.UNITS[unit]


@pytest.mark.parametrize("text", ["", "s", "0s", "-1s", "5x", "1:30", "nan", "1e3"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no time: write it as 60s"):
        parse_time(text)


def test_the_budget_is_what_the_time_pays_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "measure_pass", lambda task: 0.25)
    asked = spec({"kind": "plain"}, {"kind": "hybrid", "steps": 4}, {"kind": "search"})
    paid, budget = pay_by_time(asked, 60.1, load_once())
    assert budget == 240
    assert [getattr(method, "budget", None) for method in paid.methods] == [None, 240, 240]
    assert [getattr(method, "budget", None) for method in asked.methods] == [None, 1000, 1000]


def test_a_pass_takes_time() -> None:
    from chainrule.runs import load_task

    assert measure_pass(load_task(spec({"kind": "hybrid"}), load_once())) > 0


def test_a_time_that_buys_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "measure_pass", lambda task: 10.0)
    with pytest.raises(UserError, match="5 s pay for no pass here"):
        pay_by_time(spec({"kind": "hybrid"}), 5.0, load_once())
    with pytest.raises(UserError, match="none was chosen: choose the preset best"):
        pay_by_time(spec({"kind": "plain"}), 50.0, load_once())


def test_a_budget_of_a_methods_own_is_not_replaced() -> None:
    with pytest.raises(UserError, match="there is a budget and a time") as no:
        pay_by_time(spec({"kind": "hybrid"}, {"kind": "search", "budget": 9}), 50.0, load_once())
    assert no.value.field == "time"


def test_what_a_run_warns_of_is_said_by_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "measure_pass", lambda task: 1.0)
    asked = spec({"kind": "hybrid"})
    strange = asked.model_copy(
        update={"inputs": asked.inputs.model_copy(update={"prompt": ("a red shap",)})}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pay_by_time(strange, 60.0, load_once())


def test_the_run_says_its_budget_in_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is made again elsewhere, whatever a pass takes there."""
    monkeypatch.setattr(pace, "measure_pass", lambda task: 1.0)
    folder = tmp_path / "run"
    asked = ["guide", "a red shape", "--loss", "classifier=heart", "--seed", "0"]
    asked += ["--preset", "best", "--steps", "2", "--time", "30s", "-o", str(folder)]
    code, said = call(*asked)
    assert code == 0, said
    assert "30s pay for 30 passes here (--budget 30)" in said
    (found,) = [each for each in Folder.open(folder).spec.methods if each.kind == "hybrid"]
    assert found.budget == 30  # type: ignore[union-attr]
    for more in (["--budget", "5"], ["--method", "hybrid:budget=5"]):
        code, said = call(*asked[:-1], tmp_path / "other", *more)
        assert code == 2
        assert "there is a budget and a time" in said
    assert not (tmp_path / "other").exists()
