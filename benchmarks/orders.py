"""Do methods come in the same order on real artwork as on shapes: `python benchmarks/orders.py`.

Read from the tables of docs/results.md: nothing is run. Of the methods that both worlds tried, a
pair whose 95 % intervals overlap in neither world is decided in both; how many of those come in the
same order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile

from base import RESULTS, Options, publish, table

METHODS = (
    "plain, with classifier-free guidance",
    "plain",
    "one-step",
    "best of N, gently guided",
    "best of",
    "DOODL tuned",
    "DOODL (image=), DreamBooth's cost",
    "hybrid",
    "nothing done",
    "drawn anew",
    "reconstruction",
    "SDEdit in the mask",
    "SDEdit",
    "DDIM inversion",
    "EDICT",
    "DiffEdit in the mask",
    "DiffEdit",
    "Prompt-to-Prompt by DDIM",
    "Prompt-to-Prompt by EDICT",
    "textual inversion",
    "DreamBooth, prior not preserved",
    "DreamBooth, LoRA",
    "DreamBooth",
    "Stylize",
)
"""How the names of methods begin, a longer beginning before a shorter one."""

ALSO_CALLED = {"AdjointDPM": "Stylize"}
"""What some of them are called in one of the tables."""

Scores = Mapping[str, tuple[float, float, float]]
"""The mean of each method, by name, and the interval around it."""


@dataclass(frozen=True)
class Column:
    """Where a score is written.

    Args:
        section: The section of the results.
        name: The column's.
        under: The heading that the table is under; "": the section's own.
    """

    section: str
    name: str
    under: str = ""


@dataclass(frozen=True)
class Question:
    """What both worlds were asked.

    Args:
        title: What it is called.
        shapes: The score in the world of shapes.
        artwork: That in the world of sprites.
    """

    title: str
    shapes: Column
    artwork: Column


ASKED = (
    (
        "a species without a word",
        "artwork-vocabulary",
        Column("vocabulary", "judge"),
        "A class without a word",
    ),
    (
        "all of a prompt",
        "artwork-prompts",
        Column("text", "all of the prompt", "Held-out combinations"),
        "All of a prompt",
    ),
    (
        "this very thing, elsewhere",
        "artwork-things",
        Column("personalisation", "thing and context, right"),
        "This very thing, elsewhere",
    ),
    (
        "a more beautiful picture",
        "artwork-beauty",
        Column("beauty", "right"),
        "A more beautiful photo",
    ),
)
"""What DOODL's tables ask: its table on artwork, on shapes, and on shapes beside guidance at its
strongest, by its heading there."""

QUESTIONS = (
    *(
        Question(title, shapes, Column(section, "right"))
        for name, section, usual, head in ASKED
        for title, shapes in (
            (name, usual),
            (f"{name}, guidance at its strongest", Column("strongest", "right", head)),
        )
    ),
    Question("words edited", Column("editing", "both"), Column("artwork-words", "all")),
    Question(
        "this very thing, from four pictures",
        Column("tuning", "both"),
        Column("artwork-learning", "both"),
    ),
    Question(
        "the style of one picture",
        Column("style", "its shape in the style, unseen prompts"),
        Column("artwork-style", "both"),
    ),
)


def shorten_name(name: str) -> str | None:
    """What a method is called in both worlds, without its settings; None if only one has it."""
    name = ALSO_CALLED.get(name, name)
    return next((known for known in METHODS if name.startswith(known)), None)


def read_scores(page: str, column: Column) -> Scores:
    """The scores of a column, of the first method of each name; none if it is not there."""
    found = re.search(
        rf"<!-- {re.escape(column.section)} -->(.*)<!-- end of {re.escape(column.section)} -->",
        page,
        re.DOTALL,
    )
    if found is None:
        return {}
    _, heading, text = found[1].partition(f"### {column.under}\n" if column.under else "\n")
    if not heading:
        raise SystemExit(f"the section {column.section!r} has no heading {column.under!r}")
    lines = iter(text.splitlines())
    head = next((line for line in lines if line.startswith("| method |")), "")
    names = [cell.strip() for cell in head.strip("| ").split(" | ")]
    if column.name not in names:
        raise SystemExit(f"the table of {column.section!r} has no column {column.name!r}: {names}")
    scores: dict[str, tuple[float, float, float]] = {}
    for line in takewhile(lambda line: line.startswith("|"), lines):
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        name = shorten_name(cells[0])
        numbers = re.findall(r"-?\d+\.\d+", cells[names.index(column.name)]) if name else []
        if name is not None and len(numbers) == 3:
            scores.setdefault(name, (float(numbers[0]), float(numbers[1]), float(numbers[2])))
    return scores


def is_ahead(scores: Scores, one: str, other: str) -> bool:
    """Whether a method is ahead of another outside both intervals."""
    return scores[one][1] > scores[other][2]


def compare(shapes: Scores, artwork: Scores) -> list[str]:
    """The cells of a question: the orders, and how many decided pairs are in the same one."""
    shared = [name for name in shapes if name in artwork]
    orders = [
        " > ".join(f"{name} {scores[name][0]:.2f}" for name in _rank(scores, shared))
        for scores in (shapes, artwork)
    ]
    same, opposite = 0, []
    for one, other in combinations(_rank(artwork, shared), 2):
        if not is_ahead(artwork, one, other):
            continue
        same += is_ahead(shapes, one, other)
        if is_ahead(shapes, other, one):
            opposite.append(f"{one} and {other}")
    decided = f"{same} of {same + len(opposite)}"
    pairs = len(shared) * (len(shared) - 1) // 2
    return [*orders, f"{decided} (of {pairs})", "; ".join(opposite) or "none"]


def _rank(scores: Scores, names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: -scores[name][0])


def main(argv: Sequence[str] | None = None) -> None:
    arguments = Options(__doc__).parse(argv)
    page = RESULTS.read_text()
    rows = [
        [question.title, *compare(read_scores(page, question.shapes), artwork)]
        for question in QUESTIONS
        if (artwork := read_scores(page, question.artwork))
    ]
    header = [
        "asked",
        "on shapes",
        "on artwork",
        "pairs in the same order, of those decided in both",
        "in the opposite one",
    ]
    text = [
        "## Do orders on artwork agree with those on shapes?",
        "`python benchmarks/orders.py`: from the tables of this page. A pair of methods is decided "
        "in a world if its 95 % intervals do not overlap there; in brackets, all pairs.",
        table(header, rows),
    ]
    publish("orders", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
