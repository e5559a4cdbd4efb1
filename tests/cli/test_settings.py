"""What is typed for settings, and what a method makes of it."""

from __future__ import annotations

import pytest

from chainrule.cli._settings import Typed, apply_settings, choose_losses, choose_methods
from chainrule.errors import UserError
from chainrule.losses import ClassifierSpec
from chainrule.methods import DOODL, Adam, Momentum
from chainrule.methods.base import Situation


def test_a_part_of_a_setting_and_its_kind() -> None:
    (chosen,) = choose_methods(["doodl:optimiser=adam,beta1=0.5,mix=none,crops=2"], None)
    method = DOODL.model_validate(chosen.values)
    assert method == DOODL(optimiser=Adam(beta1=0.5), mix=None, crops=2)
    (chosen,) = choose_methods(["doodl"], None)
    apply_settings([("clip", "none"), ("rate", "100"), ("renormalise", "false")], [chosen])
    method = DOODL.model_validate(chosen.values)
    assert method == DOODL(optimiser=Momentum(rate=100.0, clip=None), renormalise=False)


def test_a_choice_among_words() -> None:
    (loss,) = choose_losses(["classifier=heart"])
    apply_settings([("objective", "ce")], [loss])
    assert ClassifierSpec.model_validate(loss.values).objective == "ce"


def test_a_setting_without_its_value_is_refused() -> None:
    (chosen,) = choose_methods(["sdedit"], None)
    with pytest.raises(UserError, match="strength: a value is missing"):
        apply_settings([("strength", None)], [chosen])


def test_a_number_for_what_two_things_have_is_asked_back() -> None:
    """`clip` is a CLIP of the loss, and the bound of the optimiser's steps."""
    both = [*choose_methods(["doodl"], None), *choose_losses(["text=a heart"])]
    for value in ("0.1", "none", "1e-3"):
        with pytest.raises(
            UserError, match=r"clip is a setting of text and of doodl.*doodl:optimiser\.clip="
        ):
            apply_settings([("clip", value)], both)
    apply_settings([("clip", "owner/name")], both)
    assert (both[0].values, both[1].values["clip"]) == ({}, {"owner/name": 1.0})
    alone = choose_methods(["doodl"], None)
    apply_settings([("clip", "0.1")], alone)
    assert alone[0].values["optimiser"]["clip"] == "0.1"
    named = choose_methods(["doodl:optimiser.clip=0.1"], None)
    assert named[0].values["optimiser"]["clip"] == "0.1"


def test_a_value_of_ones_own_goes_before_that_of_all() -> None:
    chosen = choose_methods(["plain:steps=3", "sdedit", "doodl:optimiser.rate=0.5"], None)
    apply_settings([("steps", "7")], chosen)
    assert [each.values["steps"] for each in chosen] == ["3", "7", "7"]
    with pytest.raises(UserError, match="has a value of its own: omit --rate"):
        apply_settings([("rate", "0.1")], chosen)
    with pytest.raises(UserError, match="has a value of its own: omit --steps"):
        apply_settings([("steps", "7")], chosen[:1])


def test_a_lora_has_its_own_rate_wherever_its_rank_is_said() -> None:
    def rate(texts: list[str], typed: list[Typed], preset: str = "tuned") -> float:
        (chosen,) = choose_methods(texts, Situation(preset), typed)
        apply_settings(typed, [chosen])
        return chosen.kind(**chosen.values).moved_by.rate

    assert rate(["dreambooth"], []) == rate(["dreambooth:rank=none"], []) == 2e-4
    assert rate(["dreambooth:rank=8"], []) == rate(["dreambooth"], [("rank", "8")]) == 3e-3
    assert rate(["dreambooth:rank=8,rate=0.01"], []) == 0.01
    assert rate(["dreambooth"], [], "faithful") == 5e-6
    assert rate(["dreambooth:rank=8"], [], "faithful") == 1e-4
