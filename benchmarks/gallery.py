"""How long the studio takes to list many runs: `python benchmarks/gallery.py`.

Run folders with a spec, a report and four pictures each, as `chainrule guide` leaves them, of which
a page shows 24. The first look reads each spec and makes the page's thumbnails; later ones do not.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from base import Options, machine, measure_seconds, publish, table
from chainrule.runs import execute, parse_spec
from chainrule.studio.desk import Desk
from chainrule.studio.learnt import find_learnt
from chainrule.studio.listing import PAGE, Listing
from chainrule.studio.views import show_gallery


def write_runs(folder: Path, count: int) -> None:
    """So many copies of one run, each of its own name."""
    spec = {
        "inputs": {"prompt": "a red circle on a white background", "seed": (0, 1)},
        "losses": ["brightness=0.9"],
        "methods": [{"kind": "plain", "steps": 2}, {"kind": "best-of", "steps": 2, "count": 2}],
    }
    for _ in execute(parse_spec(spec), folder / "run-0"):
        pass
    for number in range(1, count):
        shutil.copytree(folder / "run-0", folder / f"run-{number}")


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--runs", type=int, default=1000, toy=3)
    options.add("--repeats", type=int, default=5, toy=2, help="of the later looks")
    arguments = options.parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(folder)
        write_runs(desk.folder, arguments.runs)
        listing = Listing(desk)

        def look(words: str = "") -> None:
            show_gallery(listing.list_cards(words)[:PAGE])

        def draw() -> None:
            for card in listing.list_cards()[:PAGE]:
                listing.find_thumb(card.name)

        first = [measure_seconds(look), measure_seconds(draw), measure_seconds(
            lambda: find_learnt(Listing(desk)))]  # fmt: skip
        looks: tuple[Callable[[], object], ...] = (
            look, draw, lambda: look("red best-of"), lambda: look("nothing like it"),
            lambda: find_learnt(listing),
        )  # fmt: skip
        later = [min(measure_seconds(each) for _ in range(arguments.repeats)) for each in looks]
    names = (
        "a page of the gallery", f"the thumbnails of {PAGE} runs", "words that all runs have",
        "words that none has", "what was learnt",
    )  # fmt: skip
    firsts = (first[0], first[1], None, None, first[2])
    rows = [
        [name, *("" if s is None else f"{1000 * s:.0f}" for s in pair)]
        for name, *pair in zip(names, firsts, later, strict=True)
    ]
    text = [
        f"## A gallery of {arguments.runs:,} runs",
        f"`python benchmarks/gallery.py --runs {arguments.runs}` on {machine()}. Milliseconds; "
        f"later looks are the fastest of {arguments.repeats}.",
        table(["", "first", "later"], rows),
    ]
    publish("gallery", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
