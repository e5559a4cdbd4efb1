"""`python -m chainrule.sprites.train [PART ...]`: train the world of sprites, or parts of it.

Everything resumes. On two cores it takes days; on one GPU of a data centre, minutes, if what can be
trained side by side is (`--together`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
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
    ("clip", "rater", "semantic"),
    ("judge", "style-judge"),
    ("classifier", "noise-aware"),
    ("judge-clip",),
)
"""What can then be trained side by side, a process each."""

SOURCES = tuple(Path(str(module.__file__)) for module in (artwork, base, things))

WEIGHTS = Path(base.__file__).parent / "weights"

_load = cache(artwork.load_artwork)


def draw(folder: Path, seed: int) -> np.ndarray:
    """The pixels of a seed's scene, with the artwork of a folder."""
    return np.asarray(base.render(base.sample_scene(seed), _load(folder)))


def train(parts: Sequence[str], settings: Settings) -> None:
    """Train parts, one after the other."""
    torch.manual_seed(0)
    for part in parts:
        PARTS[part](settings)


def train_together(settings: Settings) -> None:
    """Train everything, side by side where it may be: a small network leaves a GPU idle.

    Raises:
        SystemExit: A part failed; the others were trained.
    """
    settings.list_scenes()  # once for all processes, which are copies of this one
    for groups in ((FIRST,), TOGETHER):
        processes = [_start(group, settings) for group in groups]
        for process in processes:
            process.join()
        failed = [process.name for process in processes if process.exitcode]
        if failed:
            raise SystemExit(f"failed: {', '.join(failed)}")


def _start(parts: Sequence[str], settings: Settings) -> BaseProcess:
    process = get_context("fork").Process(target=train, args=(parts, settings), name=parts[0])
    process.start()
    return process


def read_minutes(text: str) -> tuple[str, float]:
    """The name and the number of "unet=5"."""
    name, _, minutes = text.partition("=")
    return name, float(minutes)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m chainrule.sprites.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"any of {', '.join(PARTS)}; all, in order, if none",
    )
    add = parser.add_argument
    add("--device", default="cpu")
    add("--work", type=Path, default=Path("runs/sprites"), help="states and drawn pictures")
    add("--artwork", type=Path, help="where the artwork is kept; in the work folder if not said")
    add(
        "--weights", type=Path, default=Path(__file__).parents[1] / "weights", help="where to write"
    )
    add("--scenes", type=int, default=160_000, help="how many training scenes to draw")
    add("--rebuilt", type=int, default=80_000, help="how many of them to keep rebuilt")
    add("--steps", type=int, help="the most steps of a part, to try it")
    help_ = "the most minutes of a training: its schedule ends by then (as in unet=5)"
    add("--minutes", nargs="*", type=read_minutes, default=[], metavar="NAME=MINUTES", help=help_)
    add("--together", action="store_true", help="all parts, side by side where they may be")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    folder = arguments.artwork or arguments.work / "artwork"
    _load(folder)  # what is missing is said, or fetched, before processes ask for it
    settings = Settings(
        arguments.work,
        arguments.weights,
        arguments.device,
        arguments.scenes,
        min(arguments.rebuilt, arguments.scenes),
        arguments.steps,
        dict(arguments.minutes),
        sample=base.sample_scene,
        draw=partial(draw, folder),
        sources=SOURCES,
    )
    torch.set_float32_matmul_precision("high")
    if arguments.together:
        train_together(settings)
    else:
        train(arguments.parts or list(PARTS), settings)


if __name__ == "__main__":
    main()
