"""What a training writes: files, and the folder of a whole pipeline, also twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chainrule.images import to_pil
from chainrule.runs import (
    Iteration,
    count_passes,
    execute,
    load_model,
    load_task,
    parse_spec,
    resume,
)
from chainrule.runs.spec import RunSpec
from tiny import load_once


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    picture = tmp_path / "thing.png"
    to_pil(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))).save(picture)
    booth = {"kind": "dreambooth", "iterations": 60, "steps": 2, "prior_images": 2}
    return parse_spec(
        {"inputs": {"prompt": "a {}", "pictures": [str(picture)]}, "methods": [booth]}
    )


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("report")
    }


def test_a_stopped_training_writes_its_pipeline_and_ends_with_the_same(
    spec: RunSpec, tmp_path: Path
) -> None:
    model = load_once("Stable Diffusion 1.x")
    events = execute(spec, tmp_path / "stopped", model)
    next(event for event in events if isinstance(event, Iteration))
    events.close()
    half = read_all(tmp_path / "stopped" / "pipeline")
    assert half
    list(resume(tmp_path / "stopped", model))
    list(execute(spec, tmp_path / "whole", model))
    folders = [tmp_path / name for name in ("stopped", "whole")]
    one, other = map(read_all, folders)
    state = "dreambooth.safetensors"  # which says how long it took, too
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] in ([], [state])
    mine, its = (load_file(folder / state) for folder in folders)
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in its)
    assert half != read_all(tmp_path / "whole" / "pipeline")
    tuned = load_model(
        spec.checkpoint.model_copy(update={"model": str(tmp_path / "whole/pipeline")})
    )
    assert tuned.noise(0).shape == model.noise(0).shape


def test_a_training_is_shown_on_its_way(spec: RunSpec, tmp_path: Path) -> None:
    """At each quarter, or the state after it; what is drawn for it changes nothing and is not counted."""
    model, (method,) = load_once("Stable Diffusion 1.x"), spec.methods
    list(execute(spec, tmp_path / "shown", model))
    names = sorted(path.name for path in (tmp_path / "shown" / "previews").iterdir())
    assert names == ["dreambooth-000020.png", "dreambooth-000040.png"]
    counted, passes = count_passes(model)
    task = method.prepare(load_task(spec, counted))
    with torch.no_grad():
        *_, last = method.run(task)
    state = load_file(tmp_path / "shown" / "dreambooth.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in last.tensors().items())
    report = json.loads((tmp_path / "shown" / "report.json").read_text())
    assert report["methods"]["dreambooth"]["passes"] == passes.total


def test_what_was_before_is_shown_as_it_was(tmp_path: Path) -> None:
    """While a LoRA is being tuned, a preview shows the network without it beside the one with it."""
    spec = parse_spec(
        {
            "inputs": {"prompt": ["a cat", "a dog"]},
            "losses": ["symmetry"],
            "methods": [{"kind": "reward", "iterations": 20, "steps": 2, "batch": 1, "rank": 2}],
        }
    )
    model = load_once("Stable Diffusion 1.x")
    (method,) = spec.methods
    with torch.no_grad():
        task = method.prepare(load_task(spec, model))
        walk = method.run(task)
        sheets = [method.result(task, state) for state in walk]
    first = sheets[0].columns["before"]
    assert all(torch.equal(sheet.columns["before"], first) for sheet in sheets)
    assert not torch.equal(sheets[-1].columns["after"], first)


def test_two_trainings_do_not_write_one_file(spec: RunSpec, tmp_path: Path) -> None:
    booth = {"kind": "dreambooth", "iterations": 1, "steps": 2, "prior": 0, "rank": 1}
    reward = {"kind": "reward", "iterations": 1, "steps": 2, "batch": 1, "rank": 1}
    values = {**json.loads(spec.dump()), "losses": ["symmetry"], "methods": [booth, reward]}
    list(execute(parse_spec(values), tmp_path / "run", load_once("Stable Diffusion 1.x")))
    written = {path.name for path in (tmp_path / "run").glob("*lora_weights.safetensors")}
    assert written == {
        f"{kind}-pytorch_lora_weights.safetensors" for kind in ("dreambooth", "reward")
    }
