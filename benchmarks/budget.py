"""Less work for the same result: success against network passes spent, `python benchmarks/budget.py`.

Vocabulary expansion towards each of the eight shapes that no caption names. After each iteration the best image so far
is judged (by the judge that no guidance ever touched), beside the passes that one would have spent to stop there, the
last drawing included. The faithful DOODL is the paper's: EDICT in 50 steps, 50 iterations. What stands beside it was
chosen on other seeds (`--tune`). Prompts and seeds are shared; intervals are over pairs of class and prompt.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import chainrule
from base import Passes
from chainrule.loss import load_classifier
from chainrule.loss.classifier import ImageClassifier
from chainrule.methods import Adam, Doodl, Momentum, Task
from chainrule.methods.doodl import result, run, start
from chainrule.methods.presets import preset
from chainrule.scenes.judge import load_judge
from contest import Case, options
from vocabulary import cases

FIRST_SEED, TUNING_SEED = 30_000, 40_000
FAITHFUL = preset("faithful").doodl
MOVED = Momentum(rate=100.0, clip=None)
QUICK = Doodl(iterations=20, steps=10, optimiser=MOVED, mix=None, perturbation=0.0, crops=4, final_steps=50)


@dataclass(frozen=True, eq=False)
class Contender:
    """A method that can be stopped at any time. `limit` is how many of each prompt's seeds it is run on (None: all)."""

    name: str
    settings: Doodl
    limit: int | None = None

    def stages(self, task: Task) -> Iterator[Callable[[], Tensor]]:
        """After each iteration, what draws the best images so far."""
        for state in run(task, self.settings, start(task, self.settings)):
            yield lambda state=state: result(task, self.settings, state).images

    @property
    def key(self) -> str:
        made_by = json.dumps(self.settings.model_dump(exclude_defaults=True), sort_keys=True)
        return f"{self.name} {zlib.crc32(made_by.encode()):08x}"


def variant(name: str, **changes: object) -> Contender:
    return Contender(name, QUICK.model_copy(update=changes), limit=2)


TUNING = [
    variant("rate 100, 10 steps"),
    variant("rate 100, 5 steps", steps=5),
    variant("rate 300, 10 steps", optimiser=Momentum(rate=300.0, clip=None)),
    variant("rate 30, 10 steps", optimiser=Momentum(rate=30.0, clip=None)),
    variant("start of 8, 10 steps", start_of=8, iterations=10),
    variant("start of 8, 5 steps", start_of=8, iterations=10, steps=5),
    variant("start of 16, 5 steps", start_of=16, iterations=10, steps=5),
    variant("start of 8, 10 steps, Adam", start_of=8, iterations=10, optimiser=Adam(rate=0.05)),
    variant("rate 100, 10 steps, until 0.03", target=0.03, iterations=30),
    variant("rate 100, 10 steps, no crops", crops=0),
    variant("rate 100, 10 steps, noise 0.01", perturbation=1e-2),
]


@dataclass(frozen=True)
class Track:
    """What the judge saw, (k, cases, seeds), after each of k iterations, and the passes per image spent until then."""

    passes: Tensor
    right: Tensor


def follow(contender: Contender, case: Case, judge: ImageClassifier, count: Passes, path: Path) -> None:
    """Run one case, and keep the judge's verdicts."""
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


def main() -> None:
    parser = options(__doc__, "budget")
    parser.add_argument("--seeds", type=int, default=16, help="for each class, shared out among the prompts")
    arguments = parser.parse_args()
    model, judge, guide = chainrule.load(), load_judge(), load_classifier()
    count = Passes(model)
    contenders = TUNING if arguments.tune else [Contender("DOODL faithful", FAITHFUL, limit=2)]
    first = TUNING_SEED if arguments.tune else FIRST_SEED
    for contender in contenders:
        for case in cases(model, guide, first, arguments.seeds, 2, contender.limit):
            path = arguments.work / contender.key / f"{case.name}.safetensors"
            if not path.exists():
                follow(contender, case, judge, count, path)


if __name__ == "__main__":
    main()
