"""`python -m chainrule.sprites.train [PART ...]`: train the world of sprites, or parts of it.

Everything resumes. On two cores it takes days; on one GPU of a data centre, minutes, if what can be
trained side by side is (`--together`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from chainrule.scenes.train.base import Settings
from chainrule.sprites import base
from chainrule.sprites.train.parts import (
    PARTS,
    SOURCES,
    USUAL,
    Drawer,
    load_once,
    train,
    train_together,
)

WEIGHTS = Path(base.__file__).parent / "weights"


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
        help=f"any of {', '.join(PARTS)}; all but unet-on, in order, if none",
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
    help_ = "the most minutes of a part: its schedule ends by then (as in unet=5)"
    add("--minutes", nargs="*", type=read_minutes, default=[], metavar="NAME=MINUTES", help=help_)
    add("--together", action="store_true", help="all parts, side by side where they may be")
    arguments = parser.parse_args()
    minutes = dict(arguments.minutes)
    if arguments.together and arguments.parts:
        parser.error("--together trains all parts: name none with it")
    unknown = [part for part in (*arguments.parts, *minutes) if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    folder = arguments.artwork or arguments.work / "artwork"
    load_once(folder)  # what is missing is said, or fetched, before processes ask for it
    draw = Drawer(folder)
    settings = Settings(
        arguments.work,
        arguments.weights,
        arguments.device,
        arguments.scenes,
        min(arguments.rebuilt, arguments.scenes),
        arguments.steps,
        minutes,
        sample=draw.sample,
        draw=draw,
        sources=SOURCES,
    )
    torch.set_float32_matmul_precision("high")
    if arguments.together:
        train_together(settings)
    else:
        train(arguments.parts or USUAL, settings)


if __name__ == "__main__":
    main()
