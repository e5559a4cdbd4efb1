"""What a training writes: files, and the folder of a whole pipeline, also twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chainrule.images import to_pil
from chainrule.runs import Iteration, execute, load_model, parse_spec, resume
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
    tuned = load_model(spec.checkpoint.model_copy(update={"model": str(tmp_path / "whole/pipeline")}))
    assert tuned.noise(0).shape == model.noise(0).shape
