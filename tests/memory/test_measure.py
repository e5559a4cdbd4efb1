"""What is counted. What a run is said to take before it begins: `runs/test_estimate.py`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chainrule import UserError
from chainrule.losses import Call, Classifier, load_classifier
from chainrule.memory import (
    LiveBytes,
    begin_phase,
    count_bytes,
    distinct_modules,
    format_bytes,
    is_out_of_memory,
    measure_memory,
    parse_bytes,
)
from tiny import load_once


def test_live_bytes_are_those_that_are_made() -> None:
    given = torch.zeros(1000)
    layer = nn.Linear(100, 200)
    with LiveBytes() as memory:
        one = given + 1.0
        assert memory.live == 4000
        view = one[:10]
        del one
        assert memory.live == 4000  # the view holds it
        del view
        assert memory.live == 0
        layer(torch.zeros(1, 100))  # its weights are given, though it makes views of them
    assert memory.peak == 4000
    assert memory.live == 0


def test_each_phase_has_its_peak() -> None:
    given = torch.zeros(1000)
    begin_phase("nobody measures")
    with measure_memory(torch.device("cpu")) as memory:
        kept = given + 1.0
        begin_phase("walk")
        _ = [given + 1.0, given + 2.0]
        begin_phase("back")
        _ = kept + 1.0
        begin_phase("walk")
        del kept
    begin_phase("nobody measures any more")
    assert memory.phases == {"whole": 4000, "walk": 12000, "back": 16000}


def test_networks_are_those_that_are_asked() -> None:
    model, loss = load_once(), 0.5 * Classifier(load_classifier(), "heart")
    names = [type(module).__name__ for module in distinct_modules(model.networks, loss.networks)]
    assert names == [
        "UNet2DConditionModel",
        "AutoencoderKL",
        "CLIPTextModel",
        "ResNetForImageClassification",
    ]
    layer = nn.Linear(3, 3, bias=False)
    assert (2.0 * Call(layer)).networks == (layer,)
    assert distinct_modules([layer], (layer, layer)) == [layer]
    assert count_bytes([layer, nn.Sequential(layer)]) == 36


@pytest.mark.parametrize("text", ["8 cows", "", "GB", "-1GB", "0GB", "1.2.3G", 400 * "9" + "GB"])
def test_amounts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not an amount of memory: write, for example, 8GB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["8.2 GB", "31.5 MB", "1.0 kB", "12 bytes"])
def test_amounts_are_written_as_they_are_read(text: str) -> None:
    assert format_bytes(parse_bytes(text.replace("bytes", "B"))) == text


def test_what_is_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("something else"))
