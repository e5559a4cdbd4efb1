"""An optimiser is a function: of a value, a gradient, and what it remembers. Whole runs: `methods/test_training.py`."""

from __future__ import annotations

import pytest
import torch

from chainrule.optimise import Adam, Momentum, Optimiser

G = torch.tensor([4.0, -0.5])


@pytest.mark.parametrize(
    "optimiser",
    [Momentum(), Momentum(nesterov=True), Adam(), Adam(decay=0.1)],
    ids=["momentum", "nesterov", "adam", "adamw"],
)
def test_what_is_given_stays_as_it_was(optimiser: Optimiser) -> None:
    value, gradient, memory = torch.ones(2), G.clone(), torch.ones(2, 2)
    change, remembered = optimiser.update(value, gradient, memory, 3)
    assert torch.equal(value, torch.ones(2))
    assert torch.equal(gradient, G)
    assert torch.equal(memory, torch.ones(2, 2))
    assert change.shape == value.shape
    assert remembered.shape == memory.shape


def test_doodls_update_is_equation_8() -> None:
    change, memory = Momentum(rate=2.0, clip=3.0, momentum=0.5).update(
        0 * G, G, torch.ones(2, 2), 0
    )
    assert change.tolist() == [0.5 - 3.0, 0.5 + 1.0]
    assert torch.equal(memory[0], change)
    free, _ = Momentum(rate=2.0, clip=None, momentum=0.5).update(0 * G, G, torch.ones(2, 2), 0)
    assert free.tolist() == [0.5 - 8.0, 0.5 + 1.0]


def test_adams_first_step_does_not_know_the_scale() -> None:
    """Its rate is the length of the first step of every element, whatever the gradient."""
    change, _ = Adam(rate=0.1).update(0 * G, G, torch.zeros(2, 2), 0)
    torch.testing.assert_close(change, -0.1 * G.sign())


@pytest.mark.parametrize(
    "fields", [{"rate": 0.0}, {"rate": -1.0}, {"beta1": 1.0}, {"decay": -0.1}, {"speed": 1.0}]
)
def test_impossible_settings_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Adam(**fields)
