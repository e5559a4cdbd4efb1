"""A preview is near what the decoder makes, and costs one small product."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from chainrule.methods import Plain, Task
from chainrule.runs import execute, parse_spec
from chainrule.studio.preview import Preview, fit_preview, read_latents
from tiny import load_once


def test_it_is_near_the_decoder_s_picture() -> None:
    model = load_once("scenes")
    denoiser = model.denoiser("a red circle on a white background")
    first, drawn = (Plain(steps=10)(Task(model, denoiser, seeds)) for seeds in ((0,), (1, 2, 3, 4)))
    shown = fit_preview(model, first.latents)(drawn.latents)
    assert shown.shape == (4, 3, 192, 192)
    small = functional.adaptive_avg_pool2d(drawn.images, (16, 16))
    mine = functional.adaptive_avg_pool2d(shown, (16, 16))
    both = torch.stack([small.flatten(), mine.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8


@pytest.mark.parametrize("family", ["Stable Diffusion 1.x", "Stable Diffusion 3"])
def test_any_family_has_one(family: str) -> None:
    model = load_once(family)
    shown = fit_preview(model, model.noise((0,)))(model.noise((0, 1)))
    assert shown.shape[:2] == (2, 3)
    assert shown.isfinite().all()
    assert 0 <= shown.min() <= shown.max() <= 1


def test_pixels_need_none() -> None:
    picture = torch.rand(1, 3, 8, 8)
    assert torch.equal(Preview(None)(picture)[..., ::24, ::24], picture)


def test_latents_of_a_run_s_state(tmp_path: Path) -> None:
    doodl = {"kind": "doodl", "iterations": 1, "steps": 2, "crops": 0, "mix": None}
    spec = parse_spec(
        {
            "losses": ["brightness=0.9"],
            "methods": [doodl, {"kind": "plain", "steps": 2}],
            "inputs": {"prompt": "a red circle"},
        }
    )
    for _ in execute(spec, tmp_path / "run"):
        pass
    for name in ("doodl", "plain"):
        assert read_latents(tmp_path / "run" / f"{name}.safetensors").shape == (1, 4, 16, 16)
    assert read_latents(tmp_path / "none.safetensors") is None
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\x00")
    assert read_latents(tmp_path / "torn.safetensors") is None
