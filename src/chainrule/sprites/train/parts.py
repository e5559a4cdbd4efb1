"""The parts of the training, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import torch

from chainrule.scenes.train.base import Settings, latents, pictures, reconstructions
from chainrule.sprites import artwork, base, things
from chainrule.sprites.train import networks

PARTS = {
    "pictures": pictures,
    "autoencoder": networks.train_autoencoder,
    "latents": latents,
    "rebuilt": reconstructions,
    "clip": networks.train_clip,
    "judge-clip": networks.train_judge_clip,
    "classifier": networks.train_classifier,
    "judge": networks.train_judge,
    "style-judge": networks.train_style_judge,
    "unet": networks.train_unet,
    "noise-aware": networks.train_noise_aware,
    "semantic": networks.train_semantic,
    "rater": networks.train_rater,
}
FIRST = ("pictures", "autoencoder", "latents", "rebuilt")
"""What all others need."""

TOGETHER = (
    ("unet",),
    ("clip", "rater", "judge-clip"),
    ("classifier", "semantic"),
    ("judge", "style-judge", "noise-aware"),
)
"""What can then be trained side by side, a process each."""

SOURCES = tuple(Path(str(module.__file__)) for module in (artwork, base, things))

load_once = cache(artwork.load_artwork)


def draw(folder: Path, seed: int) -> np.ndarray:
    """The pixels of a seed's scene, with the artwork of a folder."""
    return np.asarray(base.render(base.sample_scene(seed), load_once(folder)))


def train(parts: Sequence[str], settings: Settings) -> None:
    """Train parts, one after the other."""
    torch.manual_seed(0)
    for part in parts:
        PARTS[part](settings)


def train_together(settings: Settings) -> None:
    """Train everything, side by side where it may be: a small network leaves a GPU idle.

    All processes are started at once, and those that need others' work wait for it: what they
    import takes as long as a small training.

    Raises:
        SystemExit: A part failed; the others were trained.
    """
    context = get_context("spawn")
    now, later = context.Event(), context.Event()
    now.set()
    groups = [(FIRST, now), *((parts, later) for parts in TOGETHER)]
    processes = [
        context.Process(target=_train_when, args=(ready, parts, settings), name=parts[0])
        for parts, ready in groups
    ]
    for process in processes:
        process.start()
    processes[0].join()
    if processes[0].exitcode:
        for process in processes[1:]:
            process.terminate()
        raise SystemExit(f"failed: one of {', '.join(FIRST)}")
    later.set()
    for process in processes[1:]:
        process.join()
    failed = [process.name for process in processes if process.exitcode]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _train_when(ready: Event, parts: Sequence[str], settings: Settings) -> None:
    """Train parts as soon as what they need is there."""
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(2)
    settings.list_scenes()
    ready.wait()
    train(parts, settings)
