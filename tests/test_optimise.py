"""An optimiser is a function: of a value, a gradient, and what it remembers. Whole runs: `methods/test_training.py`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule import UserError
from chainrule.optimise import SCALES, Adam, Momentum, Optimiser

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


# --- the memory between two iterations ------------------------------------------------------------

eight_bit = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (eight-bit)"
)


@pytest.mark.parametrize("optimiser", [Momentum(), Adam(), Adam(decay=0.1)])
def test_a_memory_is_kept_whole_unless_it_is_asked_for(optimiser: Optimiser) -> None:
    memory = torch.rand(2, 100, 100)
    kept = optimiser.keep(memory)
    assert list(kept) == [""]
    assert optimiser.recall(kept[""]) is memory


@eight_bit
@given(
    shape=st.sampled_from([(4096,), (64, 64), (5000,), (3, 41, 50), (257, 31)]),
    scale=st.floats(1e-6, 1e3),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_in_eight_bits_each_block_keeps_its_own_scale(
    shape: tuple[int, ...], scale: float, seed: int
) -> None:
    """To within 2 percent of the largest of its block, zeros are zeros, and it takes a quarter of the bytes."""
    generator = torch.Generator().manual_seed(seed)
    first = scale * torch.randn(shape, generator=generator)
    memory = torch.stack([first, first.square()])
    kept = Adam(bits=8).keep(memory)
    codes, scales = kept[""], kept[SCALES]
    assert codes.dtype == torch.uint8
    assert codes.shape == memory.shape
    size = sum(part.numel() * part.element_size() for part in kept.values())
    assert size <= 0.27 * memory.numel() * memory.element_size()
    again = Adam(bits=8).recall(codes, scales)
    most = first.abs().flatten()
    blocks = [block.max() for block in most.split(256)]
    off = [(again[0] - first).abs(), (again[1].sqrt() - first.abs()).abs()]
    for error in off:
        for block, largest in zip(error.flatten().split(256), blocks, strict=True):
            assert block.max() <= 0.02 * largest
    zeros = Adam(bits=8).keep(0 * memory)
    assert not Adam(bits=8).recall(zeros[""], zeros[SCALES]).any()
    # where the first moment is something, so is the second: no step is infinite
    assert not ((again[1] == 0) & (again[0] != 0)).any()


@eight_bit
def test_small_memories_stay_in_32_bits() -> None:
    memory = torch.rand(2, 4095)
    assert Adam(bits=8).keep(memory)[""] is memory
    assert Adam(bits=8).keep(torch.rand(2, 4096))[""].dtype == torch.uint8


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    Adam().check()
    with pytest.raises(
        UserError, match=r"needs bitsandbytes: pip install 'chainrule\[eight-bit\]'"
    ):
        Adam(bits=8).check()


@pytest.mark.parametrize("bits", [4, 16, 0, "many"])
def test_other_numbers_of_bits_are_refused(bits: Any) -> None:
    assert Adam(bits="8").bits == 8  # as it is typed
    with pytest.raises(ValueError, match="bits"):
        Adam(bits=bits)
