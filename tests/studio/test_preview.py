"""A preview is near what the decoder makes, and costs little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from torch.nn import functional

from chainrule.methods import Plain, Task
from chainrule.runs import execute, parse_spec
from chainrule.studio.preview import Preview, find_tiny, fit_preview, read_latents
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
    assert torch.equal(Preview(lambda z: z)(picture)[..., ::24, ::24], picture)


def make_tiny(channels: int = 4) -> AutoencoderTiny:
    torch.manual_seed(0)
    two: dict[str, Any] = {
        f"{part}_block_out_channels": (8, 8) for part in ("encoder", "decoder")
    } | {f"num_{part}_blocks": (1, 1) for part in ("encoder", "decoder")}
    return AutoencoderTiny(latent_channels=channels, **two).eval()


def test_a_model_s_own_tiny_autoencoder_is_taken() -> None:
    model = load_once("Stable Diffusion 1.x")
    model = replace(model, codec=replace(model.codec, vae=make_tiny()))
    z = model.noise((0, 1))
    shown = fit_preview(model, z)(z)
    images = model.decode(z)
    often = shown.shape[-1] // images.shape[-1]
    assert often > 1
    torch.testing.assert_close(shown[..., ::often, ::often], images)


def test_one_of_the_cache_is_taken_if_it_is_nearer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, channels in (("taesd", 4), ("taesd3", 16)):
        place = tmp_path / f"models--madebyollin--{name}"
        make_tiny(channels).save_pretrained(place / "snapshots" / "abc")
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("abc")
    model = load_once("Stable Diffusion 1.x")
    z = model.noise((0, 1))
    (way,) = find_tiny(model)  # the other one is for other latents
    assert fit_preview(model, z).draw is not way  # it knows nothing of this model
    wanted = way(z)
    monkeypatch.setattr(type(model), "decode", lambda self, z, **_: way(z))
    shown = fit_preview(model, z)(z)
    often = shown.shape[-1] // wanted.shape[-1]
    torch.testing.assert_close(shown[..., ::often, ::often], wanted)
    (
        tmp_path / "models--madebyollin--taesd/snapshots/abc/diffusion_pytorch_model.safetensors"
    ).unlink()
    assert list(find_tiny(model)) == []


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
