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
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from base import Options, machine, publish, publish_picture, table, use_preset
from chainrule.diffusion.noise_priors import noise_statistics
from chainrule.images.charts import COLOURS
from chainrule.methods import DNO, DOODL, Adam, Langevin, Method, Momentum, ReNO, Search, Task
from chainrule.methods.base import Drawn
from chainrule.methods.best_of import Best, keep_better
from chainrule.methods.chains import generate
from chainrule.methods.chunking import decode, finish
from chainrule.methods.hybrid import Hybrid
from chainrule.methods.tfg import LOOK, TFG, Like
from chainrule.metrics import bootstrap
from chainrule.models import Model
from graphs import Graphed
from wishes import OTHER_WISHES, WISHES, Wish, measure_overlap, measure_spread

STEPS = 20
BUDGETS = (125, 300, 1000, 3000)
"""Passes for an image: of the network, a guidance pair being one, and of decoding and judging."""
SEEDS, TUNING_SEED = 16, 10_000
MOST = 1000
"""The greatest budget of those ways that cannot draw many images at a time."""
SHOWN = 4
"""Of how many seeds the images are kept."""
FREE = ("class", "held out", "picture")
"""Kinds of wishes that say nothing of where a thing is."""
POOL = 4096
"""How many plain draws say how rare a wish is."""


# --- the ways -------------------------------------------------------------------------------------

AT_ONCE = 256
"""How many images are drawn together, of several draws of each seed."""


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


class Way(ABC):
    """How images are looked for."""

    @abstractmethod
    def find(self, task: Task, budgets: Sequence[int], loss: str) -> tuple[list[Best], list[Best]]:
        """The best images at each budget, and all draws if there are nothing but draws.

        Args:
            task: What is looked for.
            budgets: Rising.
            loss: The kind of the loss.
        """


@dataclass(frozen=True)
class Draws(Way):
    """The best of many draws.

    Args:
        guide: How they are guided; None: not at all.
        least: How many there are at least, whatever the budgets.
    """

    guide: TFG | None = None
    least: int = 0

    @property
    def cost(self) -> int:
        """The passes of a draw."""
        return STEPS + LOOK if self.guide is None else self.guide.passes

    def find(self, task: Task, budgets: Sequence[int], loss: str) -> tuple[list[Best], list[Best]]:
        drawn, best = [], None
        counts, found = [max(1, budget // self.cost) for budget in budgets], []
        for new in self._draw(task, max(self.least, *counts)):
            best = new if best is None else keep_better(best, new)
            drawn.append(new)
            found.append(best)
        return [found[count - 1] for count in counts], drawn

    def _draw(self, task: Task, count: int) -> Iterator[Best]:
        """`count` draws of each seed, several of which are made together."""
        size, seeds = max(1, AT_ONCE // len(task.seeds)), len(task.seeds)
        shape, device = task.model.codec.latent_shape, task.model.device
        for first in range(0, count, size):
            some = range(first, min(first + size, count))
            x_T = torch.cat([task.noise.normal(k, shape).to(device) for k in some])
            many = task.select([*range(seeds)] * len(some))
            drawn = generate(many, x_T, STEPS) if self.guide is None else self.guide.walk(many, x_T)
            result = finish(many, drawn)
            parts = (
                cast(Tensor, value).split(seeds) for value in (result.latents, x_T, result.losses)
            )
            for latents, noise, losses in zip(*parts, strict=True):
                yield Best(latents, noise, losses=losses)


@dataclass(frozen=True)
class Spending(Way):
    """A method that is told its budget.

    Args:
        at: The method, by its budget and the kind of the loss.
    """

    at: Callable[[int, str], Method]

    def find(self, task: Task, budgets: Sequence[int], loss: str) -> tuple[list[Best], list[Best]]:
        results = [self.at(budget, loss)(task) for budget in budgets]
        return [Best(each.latents, each.x_T, losses=each.losses) for each in results], []


def guided(like: Like, **more: Any) -> Draws:
    return Draws(TFG(like=like, steps=STEPS, **more))


def search(by: Literal["halving", "moves", "particles"], **more: Any) -> Spending:
    """Search without a gradient."""
    return Spending(lambda budget, _: Search(by=by, steps=STEPS, budget=budget, **more))


def spend(method: DOODL, budget: int, drawn: float = 0.0) -> DOODL:
    """As many iterations as a budget pays for, of which a share is spent on draws before them."""
    steps, pair = method.steps, 2 if method.mix is not None else 1
    draws = max(1, int(drawn * budget) // (steps + LOOK))
    walk, looks = pair * steps, pair * LOOK * max(1, method.crops)
    left = budget - (draws * (steps + LOOK) if draws > 1 else 0) - walk - looks
    rebuilt = pair * min(steps, method.last or steps)
    iterations = max(0, left // (walk + 2 * rebuilt + 2 * looks))
    return method.model_copy(update={"start_of": draws, "iterations": iterations})


def exact(optimiser: Adam | Momentum, drawn: float = 0.0, **more: Any) -> Spending:
    """The exact gradient through DDIM, with nothing done to the noise but keeping its norm."""
    more = {"mix": None, "perturbation": 0.0, "crops": 0, **more}
    method = DOODL(steps=STEPS, optimiser=optimiser, **more)
    return Spending(lambda budget, _: spend(method, budget, drawn))


def pushed(rate: float) -> Spending:
    """The exact gradient as it is, in units of the loss."""
    return exact(Momentum(rate=rate, clip=None), renormalise=False)


def faithful(budget: int, loss: str) -> Method:
    """DOODL as in its paper."""
    return spend(use_preset(DOODL, "faithful", loss), budget)


def kept(**more: Any) -> Spending:
    """The exact gradient, with something else done to keep the noise like noise."""
    return exact(Adam(rate=0.05), **{"renormalise": False, **more})


def reno(rate: float = 5.0) -> Spending:
    """ReNO in four steps, its best drawn again in all of them beside the seed's plain image."""
    few, optimiser = 4, Momentum(rate=rate, clip=None, momentum=0.9, nesterov=True)

    def at(budget: int, _: str) -> Method:
        left = budget - few - LOOK - 2 * (STEPS + LOOK)
        count = max(0, left // (3 * few + 2 * LOOK))
        return ReNO(steps=few, iterations=count, optimiser=optimiser, final_steps=STEPS)

    return Spending(at)


def dno(rate: float) -> Spending:
    """All the noise, with the paper's bounds."""
    optimiser = Adam(rate=rate, beta2=0.999, decay=0.01)

    def at(budget: int, _: str) -> Method:
        count = max(0, (budget - STEPS - LOOK) // (3 * STEPS + 2 * LOOK))
        return DNO(steps=STEPS, iterations=count, optimiser=optimiser)

    return Spending(at)


def langevin(temperature: float) -> Spending:
    """The best of a Markov chain's samples."""

    def at(budget: int, _: str) -> Method:
        count = max(0, budget // (3 * STEPS + 2 * LOOK) - 1)  # the first image is judged too
        return Langevin(steps=STEPS, iterations=count, temperature=temperature, deliver="best")

    return Spending(at)


def hybrid(searched: float, **more: Any) -> Spending:
    """The hybrid, as its preset has it for each loss."""

    def at(budget: int, loss: str) -> Method:
        settings = {"budget": budget, "searched": searched, **more}
        return use_preset(Hybrid, "tuned", loss).model_copy(update=settings)

    return Spending(at)


PLAIN, GENTLE, STRONG, HYBRID = "best of N", "best of N, gentle", "best of N, strong", "hybrid"
EXACT, FROM_BEST = "exact gradient", "exact gradient from the best of N"
WAYS: dict[str, Way] = {
    PLAIN: Draws(least=POOL // SEEDS),
    GENTLE: guided("gentle"),
    STRONG: guided("strong"),
    HYBRID: hybrid(0.8),
    "hybrid, no short draws": hybrid(0.8, screened=0.0),
    "hybrid, half gradient, no short draws": hybrid(0.5, screened=0.0),
    "best of N, one-step": guided("one-step", rho=30.0),
    "search by halving": search("halving"),
    "search by moves": search("moves"),
    "search by particles": search("particles", sharpness=30.0),
    EXACT: exact(Adam(rate=0.05)),
    FROM_BEST: exact(Adam(rate=0.02), 0.5),
    "exact gradient, momentum": pushed(300.0),
    "exact gradient, white noise": kept(whiten=True, renormalise=True, reparameterise=True),
    "DOODL, its paper's": Spending(faithful),
    "ReNO": reno(20.0),
    "DNO": dno(0.05),
    "Langevin": langevin(0.003),
}
DRAWN = (PLAIN, GENTLE, STRONG, HYBRID, "search by halving", EXACT, "ReNO")
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
    ("ReNO", PLAIN),
    ("DNO", PLAIN),
    ("Langevin", PLAIN),
)
CONTENDERS: dict[str, Way] = {
    PLAIN: Draws(),
    **{f"best of N, gentle, rho {rho:g}": guided("gentle", rho=rho) for rho in (0.01, 0.03, 0.1)},
    **{f"best of N, strong, mu {mu:g}": guided("strong", mu=mu) for mu in (0.03, 0.1)},
    **{f"best of N, one-step, rho {rho:g}": guided("one-step", rho=rho) for rho in (10.0, 30.0)},
    **{
        f"hybrid, {part:g} on draws, {short:g} of them short": hybrid(part, screened=short)
        for part, short in ((0.5, 0.0), (0.8, 0.0), (0.8, 0.5), (0.8, 0.8))
    },
    "hybrid, one-step, rho 30": hybrid(0.8, like="one-step", rho=30.0),
    **{
        f"hybrid, {part:g} on draws, the gradient of the last 5 steps": hybrid(part, last=5)
        for part in (0.2, 0.5, 0.8)
    },
    "search by halving": search("halving"),
    **{
        f"search by moves, {part:g} on draws": search("moves", searched=part) for part in (0.3, 0.6)
    },
    **{
        f"search by particles, sharpness {each:g}": search("particles", sharpness=each)
        for each in (10.0, 30.0, 100.0)
    },
    **{f"exact gradient, Adam {rate:g}": exact(Adam(rate=rate)) for rate in (0.02, 0.05, 0.1)},
    **{
        f"gradient of the last {last} steps, Adam {rate:g}": exact(Adam(rate=rate), last=last)
        for last, rate in ((5, 0.02), (5, 0.05), (5, 0.1), (2, 0.05), (10, 0.05))
    },
    **{f"exact gradient, momentum {rate:g}": pushed(rate) for rate in (100.0, 300.0)},
    "exact gradient, Adam 0.05, noise free": kept(),
    "exact gradient, Adam 0.05, norm term": kept(noise_terms={"norm": 0.01}),
    "exact gradient, Adam 0.05, moments": kept(noise_terms={"moments": 1.0}),
    "exact gradient, Adam 0.05, spectrum": kept(noise_terms={"spectrum": 1.0}),
    "exact gradient, Adam 0.05, white": kept(whiten=True, renormalise=True),
    "exact gradient, Adam 0.05, white, reparameterised": kept(
        whiten=True, renormalise=True, reparameterise=True
    ),
    "exact gradient, Adam 0.05, perturbed": kept(perturbation=0.01),
    **{f"ReNO, rate {rate:g}": reno(rate) for rate in (5.0, 20.0)},
    **{f"DNO, rate {rate:g}": dno(rate) for rate in (0.01, 0.05, 0.1)},
    **{f"Langevin, temperature {each:g}": langevin(each) for each in (0.0003, 0.003, 0.03)},
}


# --- the benchmark --------------------------------------------------------------------------------


def measure(wish: Wish, way: Way, model: Model, seeds: Sequence[int], budgets: list[int]) -> Found:
    """What a way finds of a wish."""
    caption, began = wish.scene.caption, time.perf_counter()
    loss = wish.make_loss(model.device)
    task = Task(model, model.denoiser(caption), tuple(seeds), loss, prompts=(caption,))
    asked = [budget for budget in budgets if budget <= MOST or isinstance(way, Draws)]
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


def tabulate_ways(
    found: Mapping[str, dict[Wish, Found]],
    groups: Mapping[str, Sequence[Wish]],
    k: int,
    seconds: Mapping[str, float],
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
            rows.append([name, *cells, overlap, spread, f"{norm:.2f}", f"{seconds[name]:.1f}"])
    named = [f"{name} ({len(some)})" for name, some in groups.items()]
    header = ["way", *named, "IoU, pixels wanted", "spread, px", "norm", "s per 1,000 passes"]
    return table(header, rows)


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
    groups, rows = {**groups, RARE: [wish for wish, share in rarity.items() if share < 1 / 100]}, []
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


def time_ways(ways: Mapping[str, Way], model: Model, budget: int) -> dict[str, float]:
    """The seconds of an image and a thousand passes, one image at a time, by each way's name."""
    few = {**ways, PLAIN: Draws()}
    made = {name: measure(WISHES[0], way, model, [0], [budget]) for name, way in few.items()}
    return {name: each.seconds.item() for name, each in made.items()}


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
    seconds = time_ways({name: ways[name] for name in found}, model, budgets[0])
    publish_all(found, budgets, seconds, arguments)


def publish_all(
    found: dict[str, dict[Wish, Found]],
    budgets: list[int],
    seconds: Mapping[str, float],
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
        "backwards; the norm is that of the noise that was found, for typical noise 1; seconds of "
        "one image at a time, measured here (images may have been made elsewhere).",
        tabulate_wishes(plain),
    ]
    for k, budget in enumerate(budgets):
        text += [f"At {budget:,} passes:", tabulate_ways(found, groups, k, seconds)]
    if not tune:
        text += [tabulate_pairs(found, groups, rarity, budgets, k) for k in range(len(budgets))]
        shown = [name for name in DRAWN if name in found]
        publish_picture(
            "rare.png", partial(draw_figure, found, rarity, budgets, shown), dry=arguments.dry
        )
        text.append("![rare](images/rare.png)")
    publish("rare-tuning" if tune else "rare", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
