"""What is edited and learnt on real artwork: `python benchmarks/artwork_edits.py`.

Five tables of the world of sprites, judged by networks that no method sees: words edited (`words`),
the style of one picture (`style`), an effect as a word (`effect`), this very thing elsewhere
(`learning`), and an audit of the classifier that guides (`audit`). Several processes may share one
work folder, each with other `--tables` or `--only`; what is there is reported by `--collect`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import artwork_audit
import artwork_effect
import artwork_learning
import artwork_style
import artwork_words
from artwork_world import ARTWORK, WEIGHTS, Asked, Report, World
from base import Options, publish
from contest import make_options

TABLES: dict[str, Callable[[Asked], Report]] = {
    "words": artwork_words.make_report,
    "learning": artwork_learning.make_report,
    "style": artwork_style.make_report,
    "effect": artwork_effect.make_report,
    "audit": artwork_audit.make_report,
}

TRIED = ["nothing", "SDEdit", "plain", "textual", "best of", "no word", "effect", "Stylize"]
"""How the names of methods begin that are run at toy size; other benchmarks try the others."""


def list_options() -> Options:
    options = make_options(__doc__, "artwork-edits", only=TRIED)
    options.add_argument("--tables", nargs="+", choices=TABLES, default=[*TABLES])
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--weights", type=Path, default=WEIGHTS, help="of the world's networks")
    options.add_argument("--artwork", type=Path, default=ARTWORK, help="where the artwork is")
    options.add("--count", type=int, default=96, toy=1, help="images for each method")
    options.add("--batch", type=int, default=48, toy=48, help="images at a time")
    options.add_argument("--sheet", type=Path, help="a folder for a picture of each table")
    options.add_argument("--collect", action="store_true", help="run nothing, report what is there")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = list_options()
    arguments = options.parse(argv)
    if arguments.tune and arguments.tables != ["words"]:
        options.error("only words have settings to choose among: --tables words --tune")
    warnings.filterwarnings("ignore", message=".*hardly changed the photo.*")
    world = World(arguments.weights, arguments.artwork, arguments.device)
    only = [] if arguments.collect else arguments.only
    size = (arguments.count, arguments.batch, arguments.work, only)
    for name in arguments.tables:
        asked = Asked(world, name, *size, toy=arguments.toy, tune=arguments.tune)
        report = TABLES[name](asked)
        section = f"artwork-{name}{'-tuning' if arguments.tune else ''}"
        publish(section, report.text, dry=arguments.dry)
        if arguments.sheet:
            arguments.sheet.mkdir(parents=True, exist_ok=True)
            report.sheet().save(arguments.sheet / f"{section}.png", optimize=True)


if __name__ == "__main__":
    main()
