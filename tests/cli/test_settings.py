"""What is typed for settings, and what a method makes of it."""

from __future__ import annotations

import pytest

from chainrule.cli._settings import apply_settings, choose_losses, choose_methods
from chainrule.errors import UserError
from chainrule.losses import ClassifierSpec
from chainrule.methods import DOODL, Adam, Momentum


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
