"""What every part of a world's training shares: the pictures, and one resumable loop."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
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


def draw_shapes(seed: int) -> np.ndarray:
    """The pixels (64, 64, 3), uint8, of the shapes of a seed."""
    return np.asarray(render(sample_scene(seed)))


@lru_cache(maxsize=2)
def _list_scenes(sample: Callable[[int], Any], count: int) -> tuple[Any, ...]:
    return tuple(sample(TRAIN_SEEDS + i) for i in range(count))


@dataclass(frozen=True)
class Settings:
    """Where and how to train, and in which world.

    Args:
        work: The folder of what is kept between parts, and of states.
        weights: The folder that the weights are written to.
        device: Where to compute.
        scenes: How many training scenes there are.
        rebuilt: How many of them, from the first, are kept as the autoencoder rebuilds them.
        steps: The most steps of a part, to try it; None: as many as it wants.
        minutes: The most minutes of a training, by its name: its schedule ends by then. Where time
            ends it, a run cannot be repeated to the bit.
        sample: The scene of a seed: it has a caption and things.
        draw: The pixels of a seed's scene.
        sources: The files that say what a scene is: after a change of one, pictures are made again.
    """

    work: Path
    weights: Path
    device: str = "cpu"
    scenes: int = 60_000
    rebuilt: int = 30_000
    steps: int | None = None
    minutes: Mapping[str, float] = field(default_factory=dict)
    sample: Callable[[int], Any] = sample_scene
    draw: Callable[[int], np.ndarray] = draw_shapes
    sources: tuple[Path, ...] = (Path(str(world.__file__)),)

    @property
    def on_gpu(self) -> bool:
        """Whether to compute on a GPU, where all pictures are kept as well."""
        return self.device.startswith("cuda")

    def list_scenes(self, count: int | None = None) -> Sequence[Any]:
        """The first training scenes; all, if no number is given."""
        return _list_scenes(self.sample, self.scenes)[:count]

    def generator(self, step: int) -> torch.Generator:
        """The random numbers of a step."""
        return torch.Generator(self.device if self.on_gpu else "cpu").manual_seed(step)


@dataclass(frozen=True)
class Pictures:
    """Pictures of the scenes with seeds from `TRAIN_SEEDS`.

    Args:
        images: Their pixels (N, 64, 64, 3), uint8: memory-mapped, or on a GPU.
    """

    images: np.ndarray | Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: np.ndarray, device: str) -> Tensor:
        """The pictures at `index` as (B, 3, 64, 64) in [-1, 1]."""
        if isinstance(self.images, Tensor):
            pixels = self.images[torch.from_numpy(index).to(device, non_blocking=True)]
        else:
            pixels = torch.from_numpy(self.images[index]).to(device)
        return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def _place(images: np.ndarray, settings: Settings) -> Pictures:
    """Pictures where they are wanted."""
    if not settings.on_gpu:
        return Pictures(images)
    return Pictures(torch.from_numpy(np.array(images)).to(settings.device))


def pictures(settings: Settings) -> Pictures:
    """The training scenes, drawn once and kept in the work folder."""
    return _place(draw_pictures(settings), settings)


def draw_pictures(settings: Settings) -> np.ndarray:
    """The same, wherever training is: their pixels (N, 64, 64, 3), uint8, memory-mapped."""

    def draw_all() -> np.ndarray:
        seeds = range(TRAIN_SEEDS, TRAIN_SEEDS + settings.scenes)
        with ProcessPoolExecutor() as pool:
            return np.stack(list(pool.map(settings.draw, seeds, chunksize=500)))

    return _cached("pictures", settings.scenes, settings, draw_all)


def _cached(
    name: str, count: int, settings: Settings, make: Callable[[], np.ndarray]
) -> np.ndarray:
    """The array `make()`, from the work folder if it was made before; memory-mapped."""
    path = settings.work / f"{name}-{count}-{_origin(name, settings)}.npy"
    if not path.exists():
        settings.work.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.npy")
        np.save(partial, make())
        partial.replace(path)
    kept: np.ndarray = np.load(path, mmap_mode="r")
    return kept


def _origin(name: str, settings: Settings) -> str:
    """Which world, and which autoencoder, a kept file belongs to.

    After a change of either it is made again.
    """
    files = list(settings.sources)
    vae = settings.weights / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    if name not in ("pictures", "autoencoder") and vae.exists():
        files.append(vae)
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}"


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
    """Train a model with AdamW.

    Every batch is a function of its step alone: a run that was killed goes on where it was.

    Args:
        name: What the training is called in the work folder.
        model: The model, which is changed.
        loss: Of a step and its generator.
        settings: Where and how.
        steps: How many batches.
        rate: The highest learning rate.
        warmup: In how many steps the rate rises to it; then it falls as a cosine.
        ema: The decay of the weights' average (less at the start).
        weight_decay: AdamW's.
        final_rate: What is left of the rate at the end, as a share.
        save_every: After how many seconds the state is written.

    Returns:
        The model, with its averaged weights, frozen.
    """
    steps = min(steps, settings.steps or steps)
    state_path = settings.work / f"{name}-{_origin(name, settings)}.pt"
    optimiser = _new_optimiser(model, weight_decay)
    average, start, spent = _load_state(state_path, model, optimiser, settings)
    progress = _Progress(name, model, start, steps)
    limit = 60 * settings.minutes.get(name, math.inf)
    began = saved = time.time()
    model.train()
    state = model.state_dict()  # the tensors themselves, which training changes
    for step in range(start, steps):
        share = max(step / steps, (spent + time.time() - began) / limit)
        if share >= 1:
            print(f"{name}: its time is over at step {step}", flush=True)
            _save_state(state_path, model, optimiser, average, step, limit)
            break
        falling = final_rate + (1 - final_rate) * 0.5 * (1 + math.cos(math.pi * share))
        _set_rate(optimiser, rate * falling * min(1.0, (step + 1) / warmup))
        value = loss(step, settings.generator(step))
        _descend(model, optimiser, value)
        _follow(average, state, min(ema, (step + 1) / (step + 10)))
        progress.tell(step, value.detach())
        if time.time() - saved >= save_every or step + 1 == steps:
            saved = time.time()
            _save_state(state_path, model, optimiser, average, step + 1, spent + saved - began)
    model.load_state_dict(average)
    return model.eval().requires_grad_(False)


def _new_optimiser(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )


def _descend(model: nn.Module, optimiser: torch.optim.Optimizer, value: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _load_state(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, settings: Settings
) -> tuple[dict[str, Tensor], int, float]:
    """The weights' average, the step and the seconds where a training was.

    The model and the optimiser are filled in.
    """
    if not path.exists():
        return {key: value.detach().clone() for key, value in model.state_dict().items()}, 0, 0.0
    state = torch.load(path, weights_only=True, map_location=settings.device)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["average"], state["step"], state.get("seconds", 0.0)


@torch.no_grad()
def _follow(average: dict[str, Tensor], state: dict[str, Tensor], decay: float) -> None:
    """Move the average of the weights towards those of now."""
    moving = [key for key, now in state.items() if now.is_floating_point()]
    torch._foreach_lerp_(
        [average[key] for key in moving], [state[key] for key in moving], 1 - decay
    )
    for key in state.keys() - set(moving):
        average[key].copy_(state[key])


def _save_state(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: dict[str, Tensor],
    step: int,
    seconds: float,
) -> None:
    """Write all that a training needs to go on, whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average,
        "step": step,
        "seconds": seconds,
    }
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


class _Progress:
    """Prints now and then how far a training is."""

    def __init__(self, name: str, model: nn.Module, start: int, steps: int) -> None:
        self.name, self.start, self.steps = name, start, steps
        self.began = time.time()
        self.smooth: Tensor | None = None
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"{name}: {millions:.2f} M weights, step {start} of {steps}", flush=True)

    def tell(self, step: int, value: Tensor) -> None:
        """Take note of the loss of a step; a GPU is waited for only when a line is printed."""
        self.smooth = value if self.smooth is None else 0.98 * self.smooth + 0.02 * value
        if (step + 1) % 100:
            return
        pace = (time.time() - self.began) / (step + 1 - self.start)
        left = pace * (self.steps - step - 1) / 60
        print(
            f"{self.name}: step {step + 1} loss {self.smooth.item():.4f}, {left:.1f} min left",
            flush=True,
        )


def save_half(model: Any, folder: Path) -> None:
    """Write a model in float16, the precision that is committed.

    transformers loads in the dtype that the configuration names: float32, so that a pipeline's
    parts agree.

    Args:
        model: A model of diffusers or transformers.
        folder: Where to.
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
    """As `save_half`, with the preprocessing of a network of 64x64 pixels in [-1, 1].

    Args:
        model: A model of transformers.
        folder: Where to.
    """
    save_half(model, folder)
    size, half = {"height": SIDE, "width": SIDE}, [0.5, 0.5, 0.5]
    CLIPImageProcessor(size=size, crop_size=size, image_mean=half, image_std=half).save_pretrained(
        folder
    )


def autocast(settings: Settings) -> torch.autocast:
    """bfloat16 where matrix units have it; sums, norms and the optimiser stay in float32."""
    return torch.autocast(settings.device.split(":")[0], dtype=torch.bfloat16)


# --- what the autoencoder makes of the pictures --------------------------------------------------


def load_autoencoder(settings: Settings) -> AutoencoderKL:
    """The trained autoencoder, frozen."""
    path = settings.weights / "pipeline" / "vae"
    return (
        AutoencoderKL.from_pretrained(path).float().to(settings.device).eval().requires_grad_(False)
    )


def latents(settings: Settings) -> Tensor:
    """The latent means of all training scenes, (N, C, 16, 16) float16, computed once."""

    @torch.no_grad()
    def encode_all() -> np.ndarray:
        data, model = pictures(settings), load_autoencoder(settings)
        with autocast(settings):
            parts = [
                model.encode(data.batch(index, settings.device))
                .latent_dist.mean.half()
                .cpu()
                .numpy()
                for index in np.array_split(np.arange(len(data)), -(-len(data) // 200))
            ]
        return np.concatenate(parts)

    codes = torch.from_numpy(np.array(_cached("latents", settings.scenes, settings, encode_all)))
    return codes.to(settings.device) if settings.on_gpu else codes


def reconstructions(settings: Settings) -> Pictures:
    """Training pictures after a way through the autoencoder, computed once."""
    count = min(settings.rebuilt, settings.scenes)

    @torch.no_grad()
    def decode_all() -> np.ndarray:
        codes, model = latents(settings)[:count], load_autoencoder(settings)
        with autocast(settings):
            parts = [
                model.decode(z.float().to(settings.device)).sample.float().cpu()
                for z in codes.split(200)
            ]
        pixels = torch.cat(parts).clamp(-1, 1).add(1).mul(127.5).round().byte()
        return pixels.permute(0, 2, 3, 1).numpy()

    return _place(_cached("reconstructions", count, settings, decode_all), settings)


def mark_present(scenes: Sequence[Any], labels: Sequence[str], say: Callable[[Any], str]) -> Tensor:
    """Which labels each scene shows, (scenes, labels), 1 or 0.

    Args:
        scenes: The scenes.
        labels: The labels.
        say: The label of a thing.
    """
    number = {label: i for i, label in enumerate(labels)}
    present = torch.zeros(len(scenes), len(labels))
    for row, scene in zip(present, scenes, strict=True):
        row[[number[say(thing)] for thing in scene.things]] = 1.0
    return present


def draw_halves(
    renders: Pictures, rebuilt: Pictures, index: np.ndarray, device: str
) -> tuple[Tensor, np.ndarray]:
    """Pictures, half of them as they were drawn and half as the autoencoder rebuilds them.

    Args:
        renders: The former.
        rebuilt: The latter.
        index: Which, (B,).
        device: Where to.

    Returns:
        The pictures (B, 3, 64, 64) in [-1, 1], and the index in their order.
    """
    drawn, made = index[::2], index[1::2]
    x = torch.cat([renders.batch(drawn, device), rebuilt.batch(made, device)])
    return x, np.concatenate([drawn, made])


def draw_noisy(
    codes: Tensor, alpha_bar: Tensor, index: np.ndarray, t: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noisy latents, and the velocity that leads to them.

    Args:
        codes: The latents of all scenes, (N, C, h, w).
        alpha_bar: The noise schedule.
        index: Which scenes.
        t: Their training timesteps (B,).
        generator: Of the noise.

    Returns:
        (x_t, v), each (B, C, h, w) float32, where the latents are.
    """
    device = codes.device
    x_0 = codes[torch.from_numpy(index).to(device)].float()
    alpha_t = alpha_bar.to(t.device)[t].to(device)[:, None, None, None]
    alpha, sigma = alpha_t.sqrt(), (1 - alpha_t).sqrt()
    eps = torch.randn(x_0.shape, generator=generator, device=generator.device).to(device)
    return alpha * x_0 + sigma * eps, alpha * eps - sigma * x_0


# --- augmentation --------------------------------------------------------------------------------


def augment(x: Tensor, generator: torch.Generator, colour: float = 1.0) -> Tensor:
    """Strong changes of pictures that keep their labels: what a guide could exploit, it has seen.

    Turned, scaled and moved; contrast, brightness and colour casts; blur; noise; a grey patch.

    Args:
        x: Pictures (B, 3, 64, 64) in [-1, 1].
        generator: Which changes.
        colour: How strong those of colours are; captions speak of colours.
    """
    b, _, height, width = x.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        value = torch.rand(b, *shape, generator=generator, device=generator.device)
        return value.to(x.device) * (high - low) + low

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
    noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x.device)
    x = x + noise * uniform(0, 1, 1, 1, 1).pow(3) * 0.3
    across = torch.arange(width, device=x.device).float()
    left, upper = uniform(-16, width, 1), uniform(-16, height, 1)
    in_x = (across > left) & (across < left + 12)
    in_y = (across > upper) & (across < upper + 12)
    patch = (in_y[:, None, :, None] & in_x[:, None, None, :]) & (uniform(0, 1, 1, 1, 1) < 0.3)
    return torch.where(patch, uniform(-1, 1, 1, 1, 1), x)
