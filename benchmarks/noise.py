"""What becomes of the noise: `python benchmarks/noise.py`.

How like noise is what each way of `rare.py` has found: its norm, how flat its spectrum is, how
alike it is to itself elsewhere; beside what its images are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

import chainrule
from base import Options, machine, publish, table
from chainrule.diffusion.noise_priors import noise_statistics
from chainrule.metrics import bootstrap
from rare import deliver
from ways import EXACT, FROM_BEST, HYBRID, LAST, PLAIN, WAYS, Draws
from wishes import WISHES, make_task, measure_overlap

SHOWN = (
    PLAIN,
    HYBRID,
    FROM_BEST,
    EXACT,
    LAST,
    "exact gradient, momentum",
    "exact gradient, white noise",
    "DOODL, its paper's",
    "ReNO",
    "DNO",
    "Langevin",
)


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--seeds", type=int, default=4, toy=1)
    options.add("--budget", type=int, default=1000, toy=84)
    options.add("--wish", type=int, default=3, toy=3, help="which of the wishes of rare.py")
    options.add("--ways", nargs="+", default=SHOWN, toy=[PLAIN, HYBRID])
    arguments = options.parse(argv)
    warnings.filterwarnings("ignore")
    wish, rows = WISHES[arguments.wish], []
    task = make_task(chainrule.load(), wish, range(arguments.seeds))
    for name in arguments.ways:
        way = Draws() if name == PLAIN else WAYS[name]
        (best,), _ = way.find(task, [arguments.budget], wish.loss)
        overlap = measure_overlap(deliver(task, best), wish.picture)
        numbers = noise_statistics(torch.as_tensor(best.x_T))
        shown = [str(bootstrap(value.tolist())) for value in numbers.values()]
        rows.append([name, *shown, str(bootstrap(overlap.tolist()))])
        print(*rows[-1], sep=" | ", flush=True)
    header = ["way", "norm", "flatness of the spectrum", "autocorrelation", "IoU"]
    text = [
        "## What becomes of the noise",
        f"`python benchmarks/noise.py --seeds {arguments.seeds} --budget {arguments.budget}` on "
        f"{machine()}. The wish is {wish.name}; 95 % intervals over images. Of noise the norm and "
        "the flatness are about 1; the autocorrelation, the largest over all shifts, is about 0.1.",
        table(header, rows),
    ]
    publish("noise", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
