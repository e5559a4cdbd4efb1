"""What every part of the training shares: the pictures, and one resumable loop."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPImageProcessor

from chainrule.scenes import base as world
from chainrule.scenes.base import SIDE, render, sample_scene

TRAIN_SEEDS = 1_000_000
"""Seed of the first training scene. Fresh scenes, for measuring, have seeds far below."""


@dataclass(frozen=True)
class Settings:
    """Where and how to train."""

    work: Path
    weights: Path
    device: str = "cpu"
    scenes: int = 60_000


@dataclass(frozen=True)
class Pictures:
    """`images` (N, 64, 64, 3) uint8 (memory-mapped), of the scenes with seeds from `TRAIN_SEEDS`."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: np.ndarray, device: str) -> Tensor:
        """The pictures at `index` as (B, 3, 64, 64) in [-1, 1]."""
        pixels = torch.from_numpy(self.images[index]).to(device)
        return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def pictures(settings: Settings) -> Pictures:
    """The training scenes, drawn once and kept in the work folder."""

    def draw_all() -> np.ndarray:
        seeds = range(TRAIN_SEEDS, TRAIN_SEEDS + settings.scenes)
        with ProcessPoolExecutor() as pool:
            return np.stack(list(pool.map(_draw, seeds, chunksize=500)))

    return Pictures(_kept("pictures", settings.scenes, settings, draw_all))


def _kept(name: str, count: int, settings: Settings, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array `make()`, from the work folder if it was made before; memory-mapped."""
    path = settings.work / f"{name}-{count}-{_made_from(name, settings)}.npy"
    if not path.exists():
        settings.work.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.npy")
        np.save(partial, make())
        partial.replace(path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _made_from(name: str, settings: Settings) -> str:
    """Which world, and which autoencoder, a kept file belongs to: after a change of either it is made again."""
    files = [Path(str(world.__file__))]
    vae = settings.weights / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    if name not in ("pictures", "autoencoder") and vae.exists():
        files.append(vae)
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}"


def _draw(seed: int) -> np.ndarray:
    return np.asarray(render(sample_scene(seed)))


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[int, torch.Generator], Tensor],
    settings: Settings,
    *,
    steps: int,
    rate: float,
    warmup: int = 200,
    ema: float = 0.998,
    weight_decay: float = 0.01,
    final_rate: float = 0.03,
    save_every: float = 60.0,
) -> nn.Module:
    """Train `model` with AdamW on `loss(step, generator)` and return it with its averaged weights.

    The rate rises over `warmup` steps and falls as a cosine to `final_rate` of its height. The weights' average has
    decay `ema` (less at the start). Every batch is a function of its step alone, and the state is written
    every `save_every` seconds: a run that was killed goes on where it was.
    """
    state_path = settings.work / f"{name}-{_made_from(name, settings)}.pt"
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    start = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True, map_location=settings.device)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average, start = state["average"], state["step"]
    print(
        f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights, step {start} of {steps}", flush=True
    )
    began = saved = time.time()
    smooth: float | None = None
    model.train()
    for step in range(start, steps):
        scale = min(1.0, (step + 1) / warmup)
        scale *= final_rate + (1 - final_rate) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate * scale
        value = loss(step, torch.Generator().manual_seed(step))
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for key, now in model.state_dict().items():
                average[key].lerp_(now, 1 - decay) if now.is_floating_point() else average[key].copy_(now)
        smooth = value.item() if smooth is None else 0.98 * smooth + 0.02 * value.item()
        if (step + 1) % 100 == 0:
            left = (time.time() - began) / (step + 1 - start) * (steps - step - 1)
            print(f"{name}: step {step + 1} loss {smooth:.4f}, {left / 60:.1f} min left", flush=True)
        if time.time() - saved >= save_every or step + 1 == steps:
            saved = time.time()
            state = {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average,
                "step": step + 1,
            }
            partial = state_path.with_suffix(".part")
            torch.save(state, partial)
            os.replace(partial, state_path)
    model.load_state_dict(average)
    return model.eval().requires_grad_(False)


def save_half(model: Any, folder: Path) -> None:
    """Write a diffusers or transformers model in float16, the precision that is committed.

    transformers loads in the dtype that the configuration names: float32, so that a pipeline's parts agree.
    """
    copy = deepcopy(model).to("cpu").half()
    for value in copy.parameters():
        value.data = value.data.contiguous()
    copy.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if "dtype" in config:
        path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")


def save_vision(model: Any, folder: Path) -> None:
    """As `save_half`, for a network of 64x64 pixels in [-1, 1], with the preprocessing that says so."""
    save_half(model, folder)
    size, half = {"height": SIDE, "width": SIDE}, [0.5, 0.5, 0.5]
    CLIPImageProcessor(size=size, crop_size=size, image_mean=half, image_std=half).save_pretrained(folder)


def autocast(settings: Settings) -> torch.autocast:
    """bfloat16 where matrix units have it; sums, norms and the optimiser stay in float32."""
    return torch.autocast(settings.device.split(":")[0], dtype=torch.bfloat16)


# --- what the autoencoder makes of the pictures -----------------------------------------------------------------


def load_autoencoder(settings: Settings) -> AutoencoderKL:
    """The trained autoencoder, frozen."""
    path = settings.weights / "pipeline" / "vae"
    return AutoencoderKL.from_pretrained(path).float().to(settings.device).eval().requires_grad_(False)


def latents(settings: Settings) -> Tensor:
    """The latent means of all training scenes, (N, 4, 16, 16) float16, computed once."""

    @torch.no_grad()
    def encode_all() -> np.ndarray:
        data, model = pictures(settings), load_autoencoder(settings)
        with autocast(settings):
            parts = [
                model.encode(data.batch(index, settings.device)).latent_dist.mean.half().cpu().numpy()
                for index in np.array_split(np.arange(len(data)), -(-len(data) // 200))
            ]
        return np.concatenate(parts)

    return torch.from_numpy(np.array(_kept("latents", settings.scenes, settings, encode_all)))


def reconstructions(settings: Settings, count: int = 30_000) -> Pictures:
    """The first `count` training pictures after a way through the autoencoder, computed once."""

    @torch.no_grad()
    def decode_all() -> np.ndarray:
        codes, model = latents(settings)[:count], load_autoencoder(settings)
        with autocast(settings):
            parts = [model.decode(z.float().to(settings.device)).sample.float().cpu() for z in codes.split(200)]
        pixels = torch.cat(parts).clamp(-1, 1).add(1).mul(127.5).round().byte()
        return pixels.permute(0, 2, 3, 1).numpy()

    return Pictures(_kept("reconstructions", min(count, settings.scenes), settings, decode_all))


# --- augmentation -----------------------------------------------------------------------------------------------


def augment(x: Tensor, generator: torch.Generator, colour: float = 1.0) -> Tensor:
    """Strong, label-keeping changes of `x` (B, 3, 64, 64) in [-1, 1]: what a guide could exploit, it has seen.

    Turned, scaled and moved; contrast, brightness and colour casts (times `colour`: captions speak of colours);
    blur; noise; a grey patch.
    """
    b, _, height, width = x.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=generator).to(x.device) * (high - low) + low

    turn, zoom = uniform(-0.3, 0.3), uniform(0.8, 1.3)
    rows = torch.stack(
        [
            torch.stack([turn.cos() * zoom, -turn.sin() * zoom, uniform(-0.15, 0.15)], dim=1),
            torch.stack([turn.sin() * zoom, turn.cos() * zoom, uniform(-0.15, 0.15)], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(rows, [b, 3, height, width], align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    cast = uniform(-0.25, 0.25, 1, 1, 1) + uniform(-0.15, 0.15, 3, 1, 1)
    x = x * (1 + colour * uniform(-0.4, 0.2, 1, 1, 1)) + colour * cast
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, blurred, uniform(0, 1, 1, 1, 1))
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    x = x + noise * uniform(0, 1, 1, 1, 1).pow(3) * 0.3
    across = torch.arange(width, device=x.device).float()
    left, upper = uniform(-16, width, 1), uniform(-16, height, 1)
    in_x = (across > left) & (across < left + 12)
    in_y = (across > upper) & (across < upper + 12)
    patch = (in_y[:, None, :, None] & in_x[:, None, None, :]) & (uniform(0, 1, 1, 1, 1) < 0.3)
    return torch.where(patch, uniform(-1, 1, 1, 1, 1), x)
