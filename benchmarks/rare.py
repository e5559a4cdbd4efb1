"""Success against rarity at equal cost: `python benchmarks/rare.py`.

Wishes that the model meets once in eight draws, and once in ten thousand: a hidden class; a hidden
shape at a place and size (a picture's pixels); a hidden class with stripes, a gradient and a size
(likewise); a hidden class beside another thing (`image=`, a CLIP); a combination that training
never showed (`text=`, likewise); a striped thing from a picture (`image=`). How rare each is, the
judge says of plain draws; the ways to meet it get the same network passes. A pass is one guidance
pair, forwards or backwards, or decoding and judging an image. `--tune` compares settings on other
wishes and seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from base import Options, machine, publish, publish_picture, table
from chainrule.diffusion.noise_priors import noise_statistics
from chainrule.images.charts import COLOURS
from chainrule.methods import Task
from chainrule.methods.base import Drawn
from chainrule.methods.chains import generate
from chainrule.methods.chunking import decode, finish
from chainrule.metrics import bootstrap
from chainrule.models import Model
from graphs import Graphed
from ways import (
    CONTENDERS,
    EXACT,
    FROM_BEST,
    GENTLE,
    HYBRID,
    LAST,
    PLAIN,
    SEEDS,
    STEPS,
    STRONG,
    TUNING_SEED,
    WAYS,
    Draws,
    Way,
)
from wishes import OTHER_WISHES, WISHES, Wish, make_task, measure_overlap, measure_spread

BUDGETS = (125, 300, 1000, 3000)
"""Passes for an image: of the network, a guidance pair being one, and of decoding and judging."""
MOST = 1000
"""The greatest budget of those ways that cannot draw many images at a time."""
MARKING_SEED = 20_000
SHOWN = 4
"""Of how many seeds the images are kept."""
FREE = ("class", "held out", "picture")
"""Kinds of wishes that say nothing of where a thing is."""


DRAWN = (PLAIN, GENTLE, STRONG, HYBRID, "search by halving", EXACT, LAST, "ReNO")
"""Those of the figure."""
RARE = "once in 100 and rarer"
QUESTIONS = (
    (HYBRID, PLAIN),
    (HYBRID, GENTLE),
    (HYBRID, STRONG),
    (HYBRID, "hybrid, no short draws"),
    (HYBRID, "search by halving"),
    (GENTLE, PLAIN),
    (GENTLE, STRONG),
    (GENTLE, "best of N, one-step"),
    *((name, PLAIN) for name in WAYS if name.startswith(("search", "exact"))),
    (LAST, PLAIN),
    (LAST, EXACT),
    ("ReNO", PLAIN),
    ("DNO", PLAIN),
    ("Langevin", PLAIN),
)
PARTS = {
    HYBRID: "all of it: short draws, guided ones, inversion, the exact gradient (the hybrid)",
    "hybrid, no short draws": "no short draws",
    "hybrid, half gradient, no short draws": "no short draws, and half of it for the gradient",
    GENTLE: "guided draws alone, gently",
    STRONG: "guided draws alone, strongly",
    FROM_BEST: "no guidance: plain draws, then the exact gradient",
    "search by halving": "short draws alone, no gradient",
    EXACT: "the exact gradient alone, from the seeds' noise",
    LAST: "the gradient of the last 5 steps alone",
    "exact gradient, momentum": "the exact gradient alone, momentum in place of Adam",
    "exact gradient, white noise": "the exact gradient alone, the noise kept white",
}
"""What the hybrid is without some of its parts."""


# --- the benchmark --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Found:
    """The best images of a task at some budgets, as the judge sees them.

    Args:
        right: (budgets, seeds).
        overlap: Of what is coloured with what was wanted, likewise.
        losses: By which the ways chose, likewise.
        images: (budgets, SHOWN, 3, 64, 64), in 8 bits.
        norm: The norm of the last noise, of 1 for typical noise: (seeds,).
        seconds: For an image and a thousand passes.
        every: Whether each draw is right (draws, seeds), of ways that only draw.
    """

    right: Tensor
    overlap: Tensor
    losses: Tensor
    images: Tensor
    norm: Tensor
    seconds: Tensor
    every: Tensor


def measure(
    wish: Wish,
    way: Way,
    model: Model,
    seeds: Sequence[int],
    budgets: Sequence[int],
    most: int = MOST,
) -> Found:
    """What a way finds of a wish.

    Args:
        wish: What is wanted.
        way: How it is looked for.
        model: What draws.
        seeds: One for each image.
        budgets: Of passes.
        most: The greatest of those that are tried of a way that does more than draw.
    """
    task, began = make_task(model, wish, seeds), time.perf_counter()
    asked = [budget for budget in budgets if budget <= most or isinstance(way, Draws)]
    best, drawn = way.find(task, asked, wish.loss)
    seconds = (time.perf_counter() - began) / len(seeds) / sum(asked[-1:] if drawn else asked)
    images = torch.stack([deliver(task, each) for each in best])
    every = np.stack([wish.judge(deliver(task, each)) for each in drawn]) if drawn else np.zeros(0)
    return Found(
        right=torch.from_numpy(np.stack([wish.judge(row) for row in images])),
        overlap=torch.tensor(np.stack([measure_overlap(row, wish.picture) for row in images])),
        losses=torch.stack([cast(Tensor, each.losses).cpu() for each in best]),
        images=(255 * images[:, :SHOWN]).round().to(torch.uint8),
        norm=noise_statistics(best[-1].x_T)["norm"].cpu(),
        seconds=torch.tensor(1000 * seconds),
        every=torch.from_numpy(every),
    )


@torch.no_grad()
def deliver(task: Task, best: Drawn) -> Tensor:
    """The images (B, 3, 64, 64) as they are delivered, in 8 bits."""
    return (255 * decode(task, best.latents)).round().cpu() / 255


def find_all(
    wishes: Sequence[Wish], ways: Mapping[str, Way], folder: Path, make: Callable[..., Found] | None
) -> dict[str, dict[Wish, Found]]:
    """What is on disk of each way, and what is made now.

    Args:
        wishes: All of them.
        ways: By name.
        folder: Where it is kept.
        make: Makes what is missing; None: nothing is made.
    """
    found: dict[str, dict[Wish, Found]] = {}
    for name, way in ways.items():
        for wish in wishes:
            path = folder / name / f"{wish.name}.safetensors"
            if not path.exists() and make is not None:
                made = make(wish, way)
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file({key: value.contiguous() for key, value in vars(made).items()}, path)
                shares = [f"{value:.2f}" for value in made.right.float().mean(dim=1).tolist()]
                print(f"{name}, {wish.name}: {' '.join(shares)}", flush=True)
            if path.exists():
                found.setdefault(name, {})[wish] = Found(**load_file(path))
    return found


# --- the tables -----------------------------------------------------------------------------------

Shares = dict[Wish, float]


def count_rarity(found: Mapping[Wish, Found]) -> Shares:
    """Which share of plain draws is right: half of one draw where none is."""
    return {
        wish: max(each.every.float().sum().item(), 0.5) / each.every.numel()
        for wish, each in found.items()
    }


def tabulate_wishes(found: Mapping[Wish, Found]) -> str:
    """How rare each wish is."""
    rows = []
    for wish, each in sorted(found.items(), key=lambda pair: -pair[1].every.float().mean()):
        count, total = int(each.every.sum()), each.every.numel()
        once = f"once in {total / count:.0f}" if count else f"not in {total}"
        rows.append([wish.name, wish.scene.caption, f"{count} of {total}", once])
    return table(["wish", "the model is told", "right", "that is"], rows)


def average(found: Mapping[Wish, Found], wishes: Sequence[Wish], k: int, what: str) -> str:
    """The mean over wishes at the budget `k`, with its interval over them; "" if there is none.

    Where not all of the wishes were tried, how many were.
    """
    known = [getattr(found[wish], what) for wish in wishes if wish in found]
    values = [each[k].float().mean().item() for each in known if len(each) > k]
    return _say(values, len(wishes))


def _say(values: Sequence[float], total: int) -> str:
    if not values:
        return ""
    return f"{bootstrap(values)}{f', {len(values)} of them' if len(values) < total else ''}"


@torch.no_grad()
def find_marks(wishes: Sequence[Wish], model: Model, count: int, path: Path) -> Shares:
    """The loss at which an image is what was wished for to the guide, for each wish.

    Half of the way, in the loss's logarithm, from that of a plain draw (the median of `count`) to
    that of the wish's own picture after a way through the autoencoder. Kept in a file.
    """
    marks = json.loads(path.read_text()) if path.exists() else {}
    for wish in wishes:
        if wish.name not in marks:
            task = make_task(model, wish, range(MARKING_SEED, MARKING_SEED + count))
            plain = finish(task, generate(task, task.x_T, STEPS)).losses
            picture = model.decode(model.encode(wish.picture[None].to(model.device)))
            least = task.require_loss()(picture).sum()
            both = torch.stack([cast(Tensor, plain).median().to(least), least])
            marks[wish.name] = both.clamp(min=1e-6).log().mean().exp().item()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(marks, indent=1))
    return {wish: marks[wish.name] for wish in wishes}


def tabulate_parts(found: Mapping[str, dict[Wish, Found]], budget: int, k: int) -> str:
    """What the hybrid is without some of its parts: over the wishes that all of them tried."""
    known = {name: found[name] for name in PARTS if name in found}
    shared = [w for w in known[HYBRID] if all(_has(each, w, k) for each in known.values())]
    best = {w: known[HYBRID][w].right[k].float().mean().item() for w in shared}
    rows = []
    for name, each in known.items():
        right = {w: each[w].right[k].float().mean().item() for w in shared}
        gaps = [right[w] - best[w] for w in shared]
        less = "" if name == HYBRID else str(bootstrap(gaps))
        rows.append([PARTS[name], str(bootstrap([*right.values()])), less])
    return table([f"at {budget:,} passes, {len(shared)} wishes", "right", "less all of it"], rows)


def tabulate_ways(
    found: Mapping[str, dict[Wish, Found]],
    groups: Mapping[str, Sequence[Wish]],
    k: int,
    seconds: Mapping[str, float],
    marks: Shares,
) -> str:
    """Success at one budget, for wishes of each rarity, and what it costs."""
    wishes = [wish for some in groups.values() for wish in some]
    pixels = [wish for wish in wishes if wish.loss == "picture"]
    free, rows = [wish for wish in wishes if wish.kind in FREE], []
    for name, each in found.items():
        cells = [average(each, some, k, "right") for some in groups.values()]
        if any(cells):
            norm = torch.stack([one.norm.mean() for one in each.values()]).mean()
            overlap, spread = average(each, pixels, k, "overlap"), _spread(each, free, k)
            known = [(each[w].losses[k], marks[w]) for w in wishes if _has(each, w, k)]
            guide = _say([(a <= b).float().mean().item() for a, b in known], len(wishes))
            costs = f"{norm:.2f}", f"{seconds[name]:.1f}"
            rows.append([name, *cells, guide, overlap, spread, *costs])
    named = [f"{name} ({len(some)})" for name, some in groups.items()]
    header = [
        "way",
        *named,
        "right to the guide",
        "IoU, pixels wanted",
        "spread, px",
        "norm",
        "s per 1,000 passes",
    ]
    return table(header, rows)


def _has(found: Mapping[Wish, Found], wish: Wish, k: int) -> bool:
    """Whether a wish was tried at the budget `k`."""
    return wish in found and len(found[wish].right) > k


def _spread(found: Mapping[Wish, Found], wishes: Sequence[Wish], k: int) -> str:
    """The mean spread of the images that are kept; "" if there are none."""
    known = [found[wish].images for wish in wishes if wish in found]
    shown = [images[k] / 255 for images in known if len(images) > k]
    values = [measure_spread(images) for images in shown if len(images) > 1]
    return _say(values, len(wishes))


def tabulate_pairs(
    found: Mapping[str, dict[Wish, Found]],
    groups: Mapping[str, Sequence[Wish]],
    rarity: Shares,
    budgets: Sequence[int],
    k: int,
) -> str:
    """Paired differences at one budget, over the wishes that both tried."""
    groups = {**groups, RARE: [wish for wish, share in rarity.items() if share < 1 / 100]}
    rows = []
    for one, other in QUESTIONS:
        mine, its = found.get(one, {}), found.get(other, {})
        cells = []
        for some in groups.values():
            pairs = [(mine[w].right, its[w].right) for w in some if w in mine and w in its]
            known = [(a[k], b[k]) for a, b in pairs if min(len(a), len(b)) > k]
            gaps = [(a.float() - b.float()).mean().item() for a, b in known]
            cells.append(_say(gaps, len(some)))
        if any(cells):
            rows.append([f"{one}, less {other}", *cells])
    return table([f"at {budgets[k]:,} passes", *groups], rows)


def time_ways(ways: Mapping[str, Way], model: Model, budget: int, path: Path) -> dict[str, float]:
    """The seconds of an image and a thousand passes, one image at a time, by each way's name.

    Kept in a file: a way is timed once.
    """
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    for name, way in {**ways, PLAIN: Draws()}.items():
        if name not in known:
            known[name] = measure(WISHES[0], way, model, [0], [budget]).seconds.item()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1))
    return known


def group_wishes(rarity: Shares) -> dict[str, list[Wish]]:
    """Wishes by how rare they are."""
    bounds = {"once in 20 or more often": (1 / 20, 2.0), "once in 20 to 500": (1 / 500, 1 / 20)}
    bounds["rarer"] = (0.0, 1 / 500)
    return {
        name: [wish for wish, share in rarity.items() if low <= share < high]
        for name, (low, high) in bounds.items()
    }


def draw_figure(
    found: Mapping[str, dict[Wish, Found]],
    rarity: Shares,
    budgets: Sequence[int],
    shown: Sequence[str],
) -> Image.Image:
    """Success against rarity, a panel for each budget, a line for each way."""
    wishes = sorted(rarity, key=lambda wish: -rarity[wish])
    width, height, left, top = 460, 300, 50, 30
    picture = Image.new("RGB", (len(budgets) * width, height + 50 + 18 * len(shown)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    far = -math.log10(min(rarity.values()))
    for k, budget in enumerate(budgets):
        first = k * width + left
        draw.text((first, 8), f"{budget:,} passes an image", "black", font)
        for tick in range(5):
            y = top + (height - top) * (1 - tick / 4)
            draw.line([(first, y), (first + width - left - 20, y)], "#dddddd")
            draw.text((first - 36, y - 8), f"{tick / 4:.2f}", "black", font)
        for power in range(int(far) + 1):
            x = first + (width - left - 20) * power / far
            draw.text((x, height + 6), f"1/{10**power:,}", "black", font, anchor="ma")
        for i, name in enumerate(shown):
            points = []
            for wish in wishes:
                each = found.get(name, {}).get(wish)
                if each is not None and len(each.right) > k:
                    x = first - (width - left - 20) * math.log10(rarity[wish]) / far
                    y = top + (height - top) * (1 - each.right[k].float().mean().item())
                    points.append((x, y))
            colour = COLOURS[i % len(COLOURS)]
            draw.line(points, colour, 2)
            for x, y in points:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
            if k == 0:
                draw.text((left, height + 34 + 18 * i), name, colour, font)
    draw.text((width, height + 34), "how often a plain draw is right", "black", font)
    return picture


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add_argument("--tune", action="store_true", help="compare settings on other wishes")
    options.add("--device", default="cpu", toy="cpu")
    options.add("--only", nargs="*", help="only these ways", toy=[PLAIN, HYBRID])
    options.add("--wishes", type=int, nargs="*", help="only these, by number", toy=[2])
    options.add("--seeds", type=int, default=SEEDS, toy=1)
    options.add("--budgets", type=int, nargs="+", default=list(BUDGETS), toy=[21, 42])
    options.add("--work", type=Path, default=Path("runs/rare"), toy=Path("runs/toy/rare"))
    arguments = options.parse(argv)
    tune, budgets = arguments.tune, sorted(arguments.budgets)
    every = OTHER_WISHES if tune else WISHES
    wishes = every if arguments.wishes is None else [every[i] for i in arguments.wishes]
    ways = dict(CONTENDERS if tune else WAYS)
    if arguments.toy:
        ways[PLAIN] = Draws()
    first = TUNING_SEED if tune else 0
    seeds = range(first, first + arguments.seeds)
    model = chainrule.load(device=arguments.device)
    if arguments.device != "cpu":
        model = replace(model, network=Graphed(model.network))

    def make(wish: Wish, way: Way) -> Found:
        return measure(wish, way, model, seeds, budgets)

    asked = {
        name: way for name, way in ways.items() if arguments.only is None or name in arguments.only
    }
    folder = arguments.work / ("tuning" if tune else "final")
    find_all(wishes, asked, folder, make)
    found = find_all(every, ways, folder, None)
    timed = {name: ways[name] for name in found}
    seconds = time_ways(timed, model, budgets[0], folder / "seconds.json")
    marks = find_marks(every, model, 2 if arguments.toy else 64, arguments.work / "marks.json")
    publish_all(found, budgets, seconds, marks, arguments)


def publish_all(
    found: dict[str, dict[Wish, Found]],
    budgets: list[int],
    seconds: Mapping[str, float],
    marks: Shares,
    arguments: argparse.Namespace,
) -> None:
    """The tables and the figure of what there is."""
    tune, plain = arguments.tune, found[PLAIN]
    rarity = count_rarity(plain)
    groups = {name: some for name, some in group_wishes(rarity).items() if some}
    where = torch.cuda.get_device_name() if arguments.device != "cpu" else "the CPU"
    text = [
        f"## Success against rarity{', choosing on other wishes and seeds' if tune else ''}",
        f"`python benchmarks/rare.py{' --tune' if tune else ''} --seeds {arguments.seeds} "
        f"--budgets {' '.join(map(str, budgets))}` on {where}; {machine()}. "
        f"{arguments.seeds} seeds a wish; 95 % intervals over wishes; T = {STEPS}; a pass is one "
        "guidance pair forwards or backwards, or decoding and judging an image forwards or "
        "backwards; right to the guide: a loss half of the way, in its logarithm, from a plain "
        "draw's to that of the wish's own picture, or less; the norm is that of the noise that was "
        "found, for typical noise 1; seconds of one image at a time, measured here (images may "
        "have been made elsewhere).",
        tabulate_wishes(plain),
    ]
    for k, budget in enumerate(budgets):
        text += [f"At {budget:,} passes:", tabulate_ways(found, groups, k, seconds, marks)]
    if not tune:
        text += [tabulate_pairs(found, groups, rarity, budgets, k) for k in range(len(budgets))]
        text += [tabulate_parts(found, budget, k) for k, budget in enumerate(budgets[:-1])]
        shown = [name for name in DRAWN if name in found]
        publish_picture(
            "rare.png", partial(draw_figure, found, rarity, budgets, shown), dry=arguments.dry
        )
        text.append("![rare](images/rare.png)")
    publish("rare-tuning" if tune else "rare", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
