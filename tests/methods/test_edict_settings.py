"""Every method with EDICT's pair has EDICT's settings, and heeds them."""

from __future__ import annotations

import itertools
import sys
from typing import Any, get_args
from unittest.mock import MagicMock

import pytest

from chainrule import DDIM, EDICT, UserError
from chainrule.diffusion.solvers.edict import Coupling, Turns
from chainrule.methods import METHODS

KINDS = [kind for kind in METHODS.own if "mix" in METHODS[kind].model_fields]


class Built(Exception):  # noqa: N818 - it is no error
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_and_the_coupling_reach_the_solver(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(**settings: Any) -> None:
        raise Built(settings)

    module = sys.modules[METHODS[kind].__module__]
    monkeypatch.setattr(module, "EDICT", build)
    monkeypatch.setattr(module, "replace", lambda task, **_: task, raising=False)
    for turns, coupling in itertools.product(get_args(Turns), get_args(Coupling)):
        settings = {"mix": 0.9, "turns": turns, "coupling": coupling}
        method = METHODS[kind](**settings)
        with pytest.raises(Built) as built:
            _ = method.solver if hasattr(method, "solver") else list(method.run(MagicMock()))
        assert built.value.args == (settings,)


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_are_edict_s_own(kind: str) -> None:
    method, solver = METHODS[kind](), EDICT()
    assert (method.turns, method.coupling) == (solver.turns, solver.coupling)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["turns", "coupling"])
def test_unknown_names_are_refused(kind: str, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        METHODS[kind](**{field: "swap"})


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if METHODS[kind].model_fields["mix"].annotation is not float]
)
def test_without_a_pair_there_are_no_turns(kind: str) -> None:
    assert isinstance(METHODS[kind](mix=None).solver, DDIM)
    for settings in ({"turns": "printed"}, {"coupling": "eps"}):
        with pytest.raises(UserError, match="without a mix"):
            METHODS[kind](mix=None, **settings)
