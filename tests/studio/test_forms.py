"""Every method and every loss has a form, and what stands in it at first is what it is."""

from __future__ import annotations

from typing import Any

import pytest

from chainrule import UserError
from chainrule.losses.registry import LOSSES
from chainrule.methods import METHODS
from chainrule.methods.base import PRESETS, Situation
from chainrule.runs import parse_spec
from chainrule.studio.forms import NONE, gather, list_fields
from tiny import load_once, required


def needed(kind: str) -> dict[str, Any]:
    return required(kind, load_once("Stable Diffusion 1.x"))


@pytest.mark.parametrize("kind", METHODS.own)
def test_a_form_as_it_stands_makes_the_method_s_defaults(kind: str) -> None:
    method = METHODS.own[kind]
    fields = list_fields(method, needed(kind))
    assert all(field.description for field in fields)
    assert len({field.path for field in fields}) == len(fields)
    found = method(**gather(fields, [field.now for field in fields]))
    assert found.model_dump() == method(**needed(kind)).model_dump()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", METHODS.own)
def test_a_form_with_a_preset_makes_the_preset(kind: str, preset: str) -> None:
    method = METHODS.own[kind]
    values = {**needed(kind), **method.preset(Situation(preset, "classifier"))}
    fields = list_fields(method, values)
    found = method(**gather(fields, [field.now for field in fields]))
    assert found.model_dump() == method(**values).model_dump()


@pytest.mark.parametrize("kind", LOSSES.own)
def test_a_loss_has_a_form_too(kind: str) -> None:
    fields = list_fields(LOSSES.own[kind])
    assert fields
    assert all(field.description for field in fields)


def test_what_is_filled_in_is_read_by_its_kind() -> None:
    fields = list_fields(METHODS.own["doodl"])
    names = {".".join(field.path): i for i, field in enumerate(fields)}
    answers: list[Any] = [field.now for field in fields]
    answers[names["steps"]] = 12.0
    answers[names["mix"]] = ""
    answers[names["noise_terms"]] = "norm=0.01, moments=2"
    answers[names["optimiser.rate"]] = "0.5"
    answers[names["renormalise"]] = False
    for pair in ("turns", "coupling", "average"):
        answers[names[pair]] = fields[names[pair]].now
    found = METHODS.own["doodl"](**{**gather(fields, answers), "steps": 12})
    assert found.mix is None
    assert found.noise_terms == {"norm": 0.01, "moments": 2.0}
    assert found.optimiser.rate == 0.5
    assert not found.renormalise


def test_what_may_be_left_open_says_so() -> None:
    fields = {field.path: field for field in list_fields(METHODS.own["doodl"])}
    assert fields["target",].optional
    assert fields["target",].now == NONE
    assert not fields["steps",].optional
    assert "at least 1" in fields["steps",].description


def test_what_is_out_of_range_is_refused_in_words() -> None:
    fields = list_fields(METHODS.own["doodl"])
    answers = ["-3" if field.path == ("steps",) else field.now for field in fields]
    with pytest.raises(UserError, match="steps"):
        parse_spec({"methods": [{"kind": "doodl", **gather(fields, answers)}]})
