"""The parts of the training, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import cast

import numpy as np
import torch

from chainrule.scenes.train.base import Settings, draw_pictures, latents, reconstructions
from chainrule.sprites import artwork, base, things
from chainrule.sprites.train import networks

PARTS = {
    "pictures": draw_pictures,
    "autoencoder": networks.train_autoencoder,
    "latents": latents,
    "rebuilt": reconstructions,
    "clip": networks.train_clip,
    "judge-clip": networks.train_judge_clip,
    "classifier": networks.train_classifier,
    "judge": networks.train_judge,
    "style-judge": networks.train_style_judge,
    "unet": networks.train_unet,
    "unet-on": networks.train_unet_on,
    "noise-aware": networks.train_noise_aware,
    "semantic": networks.train_semantic,
    "rater": networks.train_rater,
}
USUAL = tuple(part for part in PARTS if part != "unet-on")
"""What is trained where no part is named."""

FIRST = ("pictures", "autoencoder", "latents", "rebuilt")
"""What all others need."""

TOGETHER = (
    ("unet",),
    ("clip", "rater", "semantic", "judge-clip"),
    ("classifier", "noise-aware"),
    ("judge", "style-judge"),
)
"""What can then be trained side by side, a process each."""

JUDGES = ("judge", "style-judge")
"""Those that see what the generator is never shown."""

SOURCES = tuple(Path(str(module.__file__)) for module in (artwork, base, things))

load_once = cache(artwork.load_artwork)


@dataclass(frozen=True)
class Drawer:
    """Draws scenes.

    Args:
        artwork: The folder of the artwork.
        held_out: Whether what the generator is never shown is drawn too.
    """

    artwork: Path
    held_out: bool = False

    def sample(self, seed: int) -> base.Scene:
        """The scene of a seed."""
        return base.sample_scene(seed, held_out=self.held_out)

    def __call__(self, seed: int) -> np.ndarray:
        """Its pixels (64, 64, 3), uint8."""
        return np.asarray(base.render(self.sample(seed), load_once(self.artwork)))


def show_all(settings: Settings) -> Settings:
    """The settings of judges: they see what is held out too, in pictures of their own."""
    draw = replace(cast(Drawer, settings.draw), held_out=True)
    work = settings.work / "judges"
    return replace(settings, work=work, scenes=settings.rebuilt, sample=draw.sample, draw=draw)


def train(parts: Sequence[str], settings: Settings) -> None:
    """Train parts, one after the other."""
    torch.manual_seed(0)
    for part in parts:
        PARTS[part](show_all(settings) if part in JUDGES else settings)


def train_together(settings: Settings) -> None:
    """Train everything, side by side where it may be: a small network leaves a GPU idle.

    The processes are started at once and wait for what they need: what they import takes as long as
    a small training.

    Raises:
        SystemExit: A part failed; the others were trained.
    """
    context = get_context("spawn")
    ready = context.Event()
    processes = [
        context.Process(target=_train_when, args=(ready, parts, settings), name=parts[0])
        for parts in TOGETHER
    ]
    for process in processes:
        process.start()
    try:
        train(FIRST, settings)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    ready.set()
    for process in processes:
        process.join()
    failed = [process.name for process in processes if process.exitcode]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _train_when(ready: Event, parts: Sequence[str], settings: Settings) -> None:
    """Train parts as soon as what they need is there."""
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(2)
    mine = show_all(settings) if parts[0] in JUDGES else settings
    mine.list_scenes()
    if parts[0] in JUDGES:
        draw_pictures(mine)
    ready.wait()
    train(parts, settings)
