"""Ten thousand passes for an image: `python benchmarks/far.py`.

The wishes of `rare.py` that a plain draw meets once in 64 to 256, where at its greatest budget
neither way was done: does more of the same find them?
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import chainrule
from base import Options, machine, publish, table
from chainrule.metrics import bootstrap
from rare import find_all, measure
from ways import GENTLE, HYBRID, PLAIN, WAYS, Draws
from wishes import WISHES

BETWEEN = (6, 12, 13)
"""Of the wishes: those neither common nor out of reach."""


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--seeds", type=int, default=4, toy=1)
    options.add("--budget", type=int, default=10_000, toy=84)
    options.add("--wishes", type=int, nargs="+", default=BETWEEN, toy=[6])
    options.add("--ways", nargs="+", default=(PLAIN, GENTLE, HYBRID), toy=[PLAIN, HYBRID])
    options.add("--work", type=Path, default=Path("runs/far"), toy=Path("runs/toy/far"))
    arguments = options.parse(argv)
    warnings.filterwarnings("ignore")
    model, seeds, budget = chainrule.load(), range(arguments.seeds), arguments.budget
    wishes = [WISHES[i] for i in arguments.wishes]
    ways = {name: Draws() if name == PLAIN else WAYS[name] for name in arguments.ways}
    make = partial(measure, model=model, seeds=seeds, budgets=[budget], most=budget)
    folder = arguments.work / f"{budget} passes, {len(seeds)} seeds"
    found = find_all(wishes, ways, folder, make)
    rows = []
    for name, each in found.items():
        shares = [each[wish].right.float().mean().item() for wish in wishes]
        losses = [f"{each[wish].losses.mean().item():.4f}" for wish in wishes]
        seconds = sum(each[wish].seconds.item() for wish in wishes) / len(wishes)
        cells = [f"{share:.2f}, {loss}" for share, loss in zip(shares, losses, strict=True)]
        rows.append([name, *cells, str(bootstrap(shares)), f"{seconds:.1f}"])
    header = ["way", *(wish.name for wish in wishes), "right", "s per 1,000 passes"]
    text = [
        f"## {budget:,} passes for an image",
        f"`python benchmarks/far.py --seeds {len(seeds)} --budget {budget} --wishes "
        f"{' '.join(map(str, arguments.wishes))}` on {machine()}. "
        f"{len(seeds)} seeds a wish: the share that is right, and the mean loss; "
        "95 % intervals over wishes.",
        table(header, rows),
    ]
    publish("far", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
