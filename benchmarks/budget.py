"""Less work for the same result: success against network passes, `python benchmarks/budget.py`.

Vocabulary expansion towards each of the eight shapes that no caption names. After each iteration
the best image so far is judged (by the judge that no guidance ever touched), beside the passes that
one would have spent to stop there, the last drawing included. The faithful DOODL is the paper's:
EDICT in 50 steps, 50 iterations. What stands beside it was chosen on other seeds (`--tune`).
Prompts and seeds are shared; intervals are over pairs of class and prompt.
"""

from __future__ import annotations

import json
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from base import machine, publish, publish_picture, shorten, table, use_preset
from chainrule.images import chart
from chainrule.losses import ImageClassifier, load_classifier
from chainrule.methods import DOODL, Adam, DOODLState, Momentum, Plain, Result, Task
from chainrule.methods.best_of import choose_best, draws
from chainrule.methods.chains import generate
from chainrule.methods.chunking import finish
from chainrule.runs import count_passes
from chainrule.runs.passes import Passes
from chainrule.scenes.base import HIDDEN_SHAPES, SHAPES
from chainrule.scenes.judge import load_judge
from contest import Case, average_groups, make_options
from vocabulary import PROMPTS, make_cases

FIRST_SEED, TUNING_SEED = 30_000, 40_000
MARKS = (1, 2, 3, 4, 6, 8, 11, 15, 21, 31, 41)
"""The iterations after which the best images so far are judged."""
DRAFT, FINAL = Plain(steps=10), Plain(steps=50)
FAITHFUL, QUICK = (use_preset(DOODL, name) for name in ("faithful", "quick"))
TRIED = DOODL(
    iterations=20,
    steps=10,
    optimiser=Momentum(rate=100.0, clip=None),
    mix=None,
    perturbation=0.0,
    crops=4,
    final_steps=50,
)


@dataclass(frozen=True, eq=False)
class Contender(ABC):
    """A method that can be stopped at any time.

    Args:
        name: What it is called in tables.
        limit: How many of each prompt's seeds it is run on; None: all.
    """

    name: str
    limit: int | None = None

    @abstractmethod
    def stages(self, task: Task) -> Iterator[Callable[[], Tensor]]:
        """After some stages of its work and after the last, what draws the best images so far."""

    @property
    @abstractmethod
    def made_by(self) -> str:
        """Its settings."""

    @abstractmethod
    def shorten(self) -> Contender:
        """The same at toy size."""

    @property
    def key(self) -> str:
        return f"{self.name} {zlib.crc32(self.made_by.encode()):08x}"


@dataclass(frozen=True, eq=False)
class Optimised(Contender):
    """DOODL with some settings."""

    method: DOODL = FAITHFUL

    def stages(self, task: Task) -> Iterator[Callable[[], Tensor]]:
        state, waiting = self.method.start(task), None
        while not self.method.finished(state):
            state = self.method.advance(task, state)
            waiting = partial(self._draw, task, state)
            if state.judged in MARKS:
                yield waiting
                waiting = None
        if waiting:
            yield waiting

    def _draw(self, task: Task, state: DOODLState) -> Tensor:
        if self.method.final_steps is not None:
            state = self.method.redraw(task, state)
        return self.method.result(task, state).images

    def shorten(self) -> Contender:
        return replace(self, method=shorten(self.method))

    @property
    def made_by(self) -> str:
        return json.dumps(self.method.model_dump(exclude_defaults=True), sort_keys=True)


@dataclass(frozen=True, eq=False)
class Searched(Contender):
    """The best of several draws, drawn once more: no gradient at all.

    Args:
        count: How many draws there are at most.
        draft: How they are drawn.
        final: How the best one is drawn.
    """

    count: int = 64
    draft: Plain = DRAFT
    final: Plain = FINAL

    def stages(self, task: Task) -> Iterator[Callable[[], Tensor]]:
        found: list[Result] = []
        for drawn in draws(task, self.count, steps=self.draft.steps):
            found.append(drawn)
            if len(found).bit_count() == 1:  # after 1, 2, 4, 8 ...
                x_T = choose_best(found, task.require_loss()).x_T
                yield partial(self._draw, task, x_T)

    def _draw(self, task: Task, x_T: Tensor) -> Tensor:
        return finish(task, generate(task, x_T, self.final.steps)).images

    def shorten(self) -> Contender:
        return replace(self, count=2, draft=shorten(self.draft), final=shorten(self.final))

    @property
    def made_by(self) -> str:
        return f"{self.count} {self.draft.steps} {self.final.steps}"


def vary(name: str, **changes: object) -> Contender:
    """What is tried, with something changed."""
    return Optimised(name, 2, TRIED.model_copy(update=changes))


CONTENDERS = [
    Optimised("DOODL faithful", 2, FAITHFUL),
    Optimised("DOODL quick", 4, QUICK),
    Optimised("DOODL quick, from the seed's own draw", 4, QUICK.model_copy(update={"start_of": 1})),
    Searched("best of N draws", 4),
]
TUNING = [
    vary("rate 100, 10 steps"),
    vary("rate 100, 5 steps", steps=5),
    vary("best of 8, 10 steps", start_of=8, iterations=10),
    vary("best of 8, 5 steps", start_of=8, iterations=10, steps=5),
    vary("best of 8, 10 steps, until 0.03", start_of=8, target=0.03),
    vary("best of 8, 10 steps, Adam", start_of=8, iterations=10, optimiser=Adam(rate=0.05)),
]


@dataclass(frozen=True)
class Track:
    """What a method found on its way.

    Args:
        passes: (k,), those for an image until each of k iterations, the mean of all. A guidance
            pair is one.
        right: (k, prompts x classes, seeds), whether the judge then saw the wanted shape.
    """

    passes: Tensor
    right: Tensor

    def at(self, budget: float) -> Tensor | None:
        """The verdicts (prompts x classes, seeds) after so many passes; None: too few to begin."""
        done = int((self.passes <= budget).sum())
        return self.right[done - 1] if done else None


def follow(
    contender: Contender, case: Case, judge: ImageClassifier, count: Passes, path: Path
) -> None:
    """Run one case, and keep what came of it.

    Args:
        contender: The method.
        case: The case.
        judge: The judge.
        count: Counts the model's evaluations.
        path: Where `seen` (k, seeds), the shapes, and `passes` (k,) for an image are kept.
    """
    task, passes, seen, spent = case.task(), [], [], 0
    before = count.total
    for draw in contender.stages(task):
        spent += count.total - before
        before = count.total
        with torch.no_grad():
            seen.append(judge(draw()).argmax(dim=1))
        last = count.total - before
        passes.append((spent + last) / 2 / len(case.seeds))
        before = count.total  # what was drawn to be judged is not on the way
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"passes": torch.tensor(passes), "seen": torch.stack(seen)}, path)
    print(f"{contender.name}: {case.name}", flush=True)


def read_track(paths: Sequence[Path], shapes: Sequence[str]) -> Track:
    """What became of all cases.

    Args:
        paths: In the order of `vocabulary.make_cases`. One that ended early stays as it was.
        shapes: The classes.
    """
    kept = [load_file(path) for path in paths]
    length = max(len(each["passes"]) for each in kept)
    passes = torch.stack([_lengthen(each["passes"], length) for each in kept])
    wanted = [SHAPES.index(shapes[i % len(shapes)]) for i in range(len(kept))]
    right = [
        _lengthen(each["seen"], length) == shape for each, shape in zip(kept, wanted, strict=True)
    ]
    cases = torch.stack(right, dim=1).float()  # (k, prompts x batches x classes, seeds of a batch)
    apart = cases.unflatten(1, (len(PROMPTS), -1, len(shapes))).transpose(2, 3)
    return Track(passes.mean(dim=0), apart.flatten(3).flatten(1, 2))


def _lengthen(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values[-1:].expand(length - len(values), *values.shape[1:])])


BUDGETS = (100, 200, 400, 800, 1510, 3000, 7500, 15_200)
CURVE = [20 * 1.1**i for i in range(70)]
"""Passes along the curve's axis, from 20 to 15,000."""


def report(found: Mapping[Contender, Track], seeds: range, tune: bool) -> str:
    """The section's text, but for what is said of DOODL faithful."""
    rows = []
    for contender, each in found.items():
        spent = [each.at(budget) if budget < 2 * each.passes[-1] else None for budget in BUDGETS]
        cells = ["" if right is None else average_groups(right.numpy()) for right in spent]
        rows.append([contender.name, each.right[0].numel(), *cells, f"{each.passes[-1]:.0f}"])
    command = f"python benchmarks/budget.py --seeds {len(seeds)}{' --tune' if tune else ''}"
    columns = [f"{budget:,} passes" for budget in BUDGETS]
    text = [
        f"## Less work for the same result{', choosing on other seeds' if tune else ''}",
        f"`{command}` on {machine()}. Eight classes, two prompts, seeds from {seeds[0]}; the "
        "judge's success after so many network passes for an image (of a guidance pair, forwards "
        "or backwards); 95 % intervals over classes and prompts.",
        table(["method", "images", *columns, "all of its passes"], rows),
    ]
    return "\n\n".join(text)


def report_faithful(found: Mapping[Contender, Track], faithful: Contender) -> str:
    """What the others reach beside the last images of DOODL faithful."""
    few = {contender: Track(each.passes, each.right[..., :2]) for contender, each in found.items()}
    goal, rows = few[faithful].right[-1], []
    for contender, each in few.items():
        if contender is faithful:
            continue
        good = (each.right.flatten(1).mean(dim=1) >= goal.mean()).nonzero()
        reached = f"{each.passes[good[0, 0]]:.0f}" if len(good) else "never"
        gap = average_groups((each.right[-1] - goal).numpy())
        rows.append([contender.name, reached, f"{each.passes[-1]:.0f}", gap])
    header = ["method", "as good after so many passes", "all of its passes", "then ahead by"]
    text = [
        "On the seeds of DOODL faithful, beside its last images "
        f"({average_groups(goal.numpy())}), paired:",
        table(header, rows),
        "![success against network passes](images/budget.png)",
    ]
    return "\n\n".join(text)


def draw_curve(found: Mapping[Contender, Track]) -> Image.Image:
    """Success against passes, a line a method."""
    values = [[_average(each, budget) for each in found.values()] for budget in CURVE]
    names = [contender.name.removeprefix("DOODL ") for contender in found]
    return chart(
        "network passes, on a logarithmic scale: success",
        torch.tensor(values),
        [name.replace(", from the seed's", ",") for name in names],
        (f"{CURVE[0]:.0f}", f"{CURVE[-1]:,.0f}"),
    )


def _average(track: Track, budget: float) -> float:
    """The success after so many passes; none before a method begins and after it has ended."""
    right = track.at(budget) if budget < 1.1 * track.passes[-1] else None
    return math.nan if right is None else right.mean().item()


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "budget")
    help_ = "for each class, shared out among the prompts"
    options.add("--seeds", type=int, default=16, toy=2, help=help_)
    options.add("--classes", type=int, default=len(HIDDEN_SHAPES), toy=1)
    arguments = options.parse(argv)
    tune, shapes = arguments.tune, HIDDEN_SHAPES[: arguments.classes]
    judge, guide = load_judge(), load_classifier()
    model, count = count_passes(chainrule.load())
    first = TUNING_SEED if tune else FIRST_SEED
    seeds, found = range(first, first + arguments.seeds), {}
    for contender in TUNING if tune else CONTENDERS:
        asked = make_cases(model, guide, seeds, 2, contender.limit, shapes)
        small = contender.shorten() if arguments.toy else contender
        paths = [arguments.work / small.key / f"{case.name}.safetensors" for case in asked]
        if arguments.only is None or contender.name.startswith(tuple(arguments.only)):
            for case, path in zip(asked, paths, strict=True):
                if not path.exists():
                    follow(small, case, judge, count, path)
        if all(path.exists() for path in paths):
            found[contender] = read_track(paths, shapes)
    text = report(found, seeds, tune)
    faithful = next((each for each in found if each.name == "DOODL faithful"), None)
    if not tune and faithful:
        text += f"\n\n{report_faithful(found, faithful)}"
        publish_picture("budget.png", partial(draw_curve, found), dry=arguments.dry)
    publish("budget-tuning" if tune else "budget", text, dry=arguments.dry)


if __name__ == "__main__":
    main()
