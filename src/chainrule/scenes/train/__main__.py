"""`python -m chainrule.scenes.train [PART ...]`: train the bundled world, or parts of it."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from chainrule.scenes.train import autoencoder, classifier, clip, noise_aware, rater, semantic, unet
from chainrule.scenes.train.base import Settings

PARTS = {
    "autoencoder": autoencoder.train,
    "clip": clip.train,
    "judge": classifier.train_judge,
    "classifier": classifier.train,
    "unet": unet.train,
    "noise-aware": noise_aware.train,
    "semantic": semantic.train,
    "rater": rater.train,
    "judge-clip": clip.train_judge,
}


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m chainrule.scenes.train", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"any of {', '.join(PARTS)}; all, in order, if none",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/scenes"), help="checkpoints and drawn pictures"
    )
    parser.add_argument(
        "--weights", type=Path, default=Path(__file__).parents[1] / "weights", help="where to write"
    )
    parser.add_argument(
        "--scenes", type=int, default=60_000, help="how many training scenes to draw"
    )
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    settings = Settings(arguments.work, arguments.weights, arguments.device, arguments.scenes)
    torch.manual_seed(0)
    for part in arguments.parts or PARTS:
        PARTS[part](settings)


if __name__ == "__main__":
    main()
