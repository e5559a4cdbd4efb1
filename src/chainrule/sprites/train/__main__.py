"""`python -m chainrule.sprites.train [PART ...]`: train the world of sprites, or parts of it.

Everything resumes. On two cores it takes days; on one GPU of a data centre, minutes: there, first
`pictures`, `autoencoder` and `rebuilt`, then all others side by side, one process each.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
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
SOURCES = tuple(Path(str(module.__file__)) for module in (artwork, base, things))

WEIGHTS = Path(base.__file__).parent / "weights"

_load = cache(artwork.load_artwork)


def draw(folder: Path, seed: int) -> np.ndarray:
    """The pixels of a seed's scene, with the artwork of a folder."""
    return np.asarray(base.render(base.sample_scene(seed), _load(folder)))


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
        sample=base.sample_scene,
        draw=partial(draw, folder),
        sources=SOURCES,
    )
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    for part in arguments.parts or PARTS:
        PARTS[part](settings)


if __name__ == "__main__":
    main()
