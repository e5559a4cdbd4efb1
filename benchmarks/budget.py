"""Less work for the same result: success against network passes spent, `python benchmarks/budget.py`.

Vocabulary expansion towards each of the eight shapes that no caption names. After each iteration the best image so far
is loss_and_gradient (by the judge that no guidance ever touched), beside the passes that one would have spent to stop there, the
last drawing included. The faithful DOODL is the paper's: EDICT in 50 steps, 50 iterations. What stands beside it was
chosen on other seeds (`--tune`). Prompts and seeds are shared; intervals are over pairs of class and prompt.
"""

from __future__ import annotations

import json
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from base import RESULTS, Passes, machine, publish, table
from chainrule.losses import load_classifier
from chainrule.losses.classifier import ImageClassifier
from chainrule.methods import Adam, Doodl, DoodlState, Momentum, Result, Task, best, draws
from chainrule.methods.base import generate
from chainrule.methods.doodl import result, run, start
from chainrule.methods.presets import preset
from chainrule.pictures import chart
from chainrule.scenes.base import HIDDEN_SHAPES, SHAPES
from chainrule.scenes.judge import load_judge
from contest import Case, options, over_groups
from vocabulary import PROMPTS, cases

FIRST_SEED, TUNING_SEED = 30_000, 40_000
MARKS = (1, 2, 3, 4, 6, 8, 11, 15, 21, 31, 41)
"""The iterations after which the best images so far are loss_and_gradient."""
FAITHFUL, QUICK = preset("faithful").doodl, preset("quick").doodl
MOVED = Momentum(rate=100.0, clip=None)
TRIED = Doodl(iterations=20, steps=10, optimiser=MOVED, mix=None, perturbation=0.0, crops=4, final_steps=50)


@dataclass(frozen=True, eq=False)
class Contender(ABC):
    """A method that can be stopped at any time. `limit` is how many of each prompt's seeds it is run on (None: all)."""

    name: str
    limit: int | None = None

    @abstractmethod
    def stages(self, task: Task) -> Iterator[Callable[[], Tensor]]:
        """After some stages of its work and after the last, what draws the best images so far."""

    @property
    @abstractmethod
    def made_by(self) -> str:
        """Its settings."""

    @property
    def key(self) -> str:
        return f"{self.name} {zlib.crc32(self.made_by.encode()):08x}"


@dataclass(frozen=True, eq=False)
class Optimised(Contender):
    """DOODL with some settings."""

    settings: Doodl = FAITHFUL

    def stages(self, task: Task) -> Iterator[Callable[[], Tensor]]:
        waiting = None
        for state in run(task, self.settings, start(task, self.settings)):
            waiting = partial(self._drawn, task, state)
            if state.iteration in MARKS:
                yield waiting
                waiting = None
        if waiting:
            yield waiting

    def _drawn(self, task: Task, state: DoodlState) -> Tensor:
        return result(task, self.settings, state).images

    @property
    def made_by(self) -> str:
        return json.dumps(self.settings.model_dump(exclude_defaults=True), sort_keys=True)


@dataclass(frozen=True, eq=False)
class Searched(Contender):
    """The best of up to `count` draws of `steps`, drawn once more in `final_steps`: no gradient at all."""

    count: int = 64
    steps: int = 10
    final_steps: int = 50

    def stages(self, task: Task) -> Iterator[Callable[[], Tensor]]:
        found: list[Result] = []
        for drawn in draws(task, self.count, steps=self.steps):
            found.append(drawn)
            if len(found).bit_count() == 1:  # after 1, 2, 4, 8 ...
                x_T = best(found, task.wanted()).x_T
                yield partial(self._drawn, task, x_T)

    def _drawn(self, task: Task, x_T: Tensor) -> Tensor:
        return generate(task, task.denoiser, x_T, self.final_steps).images

    @property
    def made_by(self) -> str:
        return f"{self.count} {self.steps} {self.final_steps}"


def variant(name: str, **changes: object) -> Contender:
    return Optimised(name, 2, TRIED.model_copy(update=changes))


CONTENDERS = [
    Optimised("DOODL faithful", 2, FAITHFUL),
    Optimised("DOODL quick", 4, QUICK),
    Optimised("DOODL quick, from the seed's own draw", 4, QUICK.model_copy(update={"start_of": 1})),
    Searched("best of N draws", 4),
]
TUNING = [
    variant("rate 100, 10 steps"),
    variant("rate 100, 5 steps", steps=5),
    variant("best of 8, 10 steps", start_of=8, iterations=10),
    variant("best of 8, 5 steps", start_of=8, iterations=10, steps=5),
    variant("best of 8, 10 steps, until 0.03", start_of=8, target=0.03),
    variant("best of 8, 10 steps, Adam", start_of=8, iterations=10, optimiser=Adam(rate=0.05)),
]


@dataclass(frozen=True)
class Track:
    """Whether the judge saw the wanted shape, (k, prompts x classes, seeds), after each of k iterations, and the passes
    for an image until then, (k,), the mean of all."""

    passes: Tensor
    right: Tensor

    def at(self, budget: float) -> Tensor | None:
        """The verdicts (prompts x classes, seeds) on what came of so many passes, None if that is too few to begin."""
        done = int((self.passes <= budget).sum())
        return self.right[done - 1] if done else None


def follow(contender: Contender, case: Case, judge: ImageClassifier, count: Passes, path: Path) -> None:
    """Run one case, and keep the judge's verdicts: `seen` (k, seeds), the shapes, and `passes` (k,) for an image."""
    task, passes, seen = case.task(), [], []
    count.images = 0
    for draw in contender.stages(task):
        spent = count.images
        with torch.no_grad():
            seen.append(judge(draw()).argmax(dim=1))
        passes.append(count.images / 2 / len(case.seeds))
        count.images = spent
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"passes": torch.tensor(passes), "seen": torch.stack(seen)}, path)
    print(f"{contender.name}: {case.name}", flush=True)


def track(paths: Sequence[Path]) -> Track:
    """What became of all cases, which come in the order of `vocabulary.cases`. One that ended early stays as it was."""
    kept = [load_file(path) for path in paths]
    length = max(len(each["passes"]) for each in kept)
    passes = torch.stack([_longer(each["passes"], length) for each in kept])
    wanted = [SHAPES.index(HIDDEN_SHAPES[i % len(HIDDEN_SHAPES)]) for i in range(len(kept))]
    right = [_longer(each["seen"], length) == shape for each, shape in zip(kept, wanted, strict=True)]
    cases = torch.stack(right, dim=1).float()  # (k, prompts x batches of seeds x classes, seeds of a batch)
    apart = cases.unflatten(1, (len(PROMPTS), -1, len(HIDDEN_SHAPES))).transpose(2, 3)
    return Track(passes.mean(dim=0), apart.flatten(3).flatten(1, 2))


def _longer(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values[-1:].expand(length - len(values), *values.shape[1:])])


BUDGETS = (100, 200, 400, 800, 1510, 3000, 7500, 15_200)
CURVE = [20 * 1.1**i for i in range(70)]
"""Passes along the curve's axis, from 20 to 15,000."""


def report(found: dict[Contender, Track], first: int, count: int, tune: bool) -> tuple[str, str]:
    """(the section's name, its text)."""
    rows = []
    for contender, each in found.items():
        spent = [each.at(budget) if budget < 2 * each.passes[-1] else None for budget in BUDGETS]
        cells = ["" if right is None else over_groups(right.numpy()) for right in spent]
        rows.append([contender.name, each.right[0].numel(), *cells, f"{each.passes[-1]:.0f}"])
    text = [
        f"## Less work for the same result{', choosing on other seeds' if tune else ''}",
        f"`python benchmarks/budget.py --seeds {count}{' --tune' if tune else ''}` on {machine()}. Eight classes, two "
        f"prompts, seeds from {first}; the judge's success after so many network passes for an image (of a guidance "
        "pair, forwards or backwards); 95 % intervals over classes and prompts.",
        table(["method", "images", *(f"{budget:,} passes" for budget in BUDGETS), "all of its passes"], rows),
    ]
    faithful = next((contender for contender in found if contender.name == "DOODL faithful"), None)
    if not tune and faithful:
        few = {contender: Track(each.passes, each.right[..., :2]) for contender, each in found.items()}
        goal = few[faithful].right[-1]
        text.append(f"On the seeds of DOODL faithful, beside its last images ({over_groups(goal.numpy())}), paired:")
        rows = []
        for contender, each in few.items():
            if contender is faithful:
                continue
            good = (each.right.flatten(1).mean(dim=1) >= goal.mean()).nonzero()
            reached = f"{each.passes[good[0, 0]]:.0f}" if len(good) else "never"
            gap = over_groups((each.right[-1] - goal).numpy())
            rows.append([contender.name, reached, f"{each.passes[-1]:.0f}", gap])
        text.append(table(["method", "as good after so many passes", "all of its passes", "then ahead by"], rows))
        values = [[_mean(each, budget) for each in found.values()] for budget in CURVE]
        picture = chart(
            "network passes, on a logarithmic scale: success",
            torch.tensor(values),
            [contender.name.removeprefix("DOODL ").replace(", from the seed's", ",") for contender in found],
            (f"{CURVE[0]:.0f}", f"{CURVE[-1]:,.0f}"),
        )
        picture.save(RESULTS.parent / "images" / "budget.png")
        text.append("![success against network passes](images/budget.png)")
    return "budget-tuning" if tune else "budget", "\n\n".join(text)


def _mean(track: Track, budget: float) -> float:
    """The success after so many passes, none before a method begins and after it has ended."""
    right = track.at(budget) if budget < 1.1 * track.passes[-1] else None
    return math.nan if right is None else right.mean().item()


def main() -> None:
    parser = options(__doc__, "budget")
    parser.add_argument("--seeds", type=int, default=16, help="for each class, shared out among the prompts")
    arguments = parser.parse_args()
    model, judge, guide = chainrule.load(), load_judge(), load_classifier()
    count, found = Passes(model), {}
    contenders, first = (TUNING, TUNING_SEED) if arguments.tune else (CONTENDERS, FIRST_SEED)
    for contender in contenders:
        asked = cases(model, guide, first, arguments.seeds, 2, contender.limit)
        paths = [arguments.work / contender.key / f"{case.name}.safetensors" for case in asked]
        if arguments.only is None or contender.name.startswith(tuple(arguments.only)):
            for case, path in zip(asked, paths, strict=True):
                if not path.exists():
                    follow(contender, case, judge, count, path)
        if all(path.exists() for path in paths):
            found[contender] = track(paths)
    publish(*report(found, first, arguments.seeds, arguments.tune))


if __name__ == "__main__":
    main()
