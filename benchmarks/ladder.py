"""The exact gradient against cheaper ones, and against other ways to keep what it needs:
`python benchmarks/ladder.py`.

1. What a step of memory for time costs: whole steps kept (`Checkpoint(keep=)`), or of each step
   what is dear to compute (torch's selective checkpoint policies), in operations, seconds, bytes.
2. Gradients from which something is left out (`approximate.py`), and those of shorter chains: their
   cosine with the exact one, and what they cost.
3. What each does within a budget: the noise optimised towards pictures on the wishes that
   `rare.py` chooses its settings on.
"""

from __future__ import annotations

import argparse
import json
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.flop_counter import FlopCounterMode

import chainrule
from approximate import Approximate
from base import Options, machine, measure_seconds, publish, table
from chainrule import Backprop, Checkpoint, Truncated, sample
from chainrule.diffusion.gradient import Chain, Gradient
from chainrule.diffusion.solvers import State
from chainrule.losses.base import Checked
from chainrule.memory import LiveBytes
from chainrule.methods import DOODL, Adam, Task
from chainrule.methods.tfg import LOOK
from chainrule.metrics import bootstrap
from chainrule.models import Model
from ways import STEPS, TUNING_SEED
from wishes import OTHER_WISHES, Wish, make_task, measure_overlap

aten: Any = torch.ops.aten
PRODUCTS = (aten.convolution.default, aten.mm.default, aten.addmm.default, aten.bmm.default)
ATTENTION = tuple(
    getattr(aten, f"_scaled_dot_product_{name}").default
    for name in ("flash_attention_for_cpu", "flash_attention", "efficient_attention")
)
NORMS = (aten.native_group_norm.default, aten.native_layer_norm.default)
WISHES = (1, 2, 3)
"""Of `OTHER_WISHES`: those that are pictures."""


# --- what is kept ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selective(Gradient):
    """Of each step some results are kept, and the others computed again.

    Args:
        kept: The operations whose results are kept.
    """

    kept: tuple[Any, ...]

    def integrate(self, chain: Chain, state: State) -> State:
        def choose(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
            keep, again = CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE
            return keep if operation in self.kept else again

        contexts = partial(create_selective_checkpoint_contexts, choose)
        for i in range(len(chain)):
            state = checkpoint(chain.advance, i, state, use_reentrant=False, context_fn=contexts)
        return state


KEEPING: dict[str, Gradient] = {
    "everything (`Backprop`)": Backprop(),
    "nothing (`Checkpoint()`)": Checkpoint(),
    "a quarter of the steps (`Checkpoint(keep=5)`)": Checkpoint(keep=5),
    "half of the steps (`Checkpoint(keep=10)`)": Checkpoint(keep=10),
    "attention": Selective(ATTENTION),
    "convolutions and products": Selective(PRODUCTS),
    "convolutions, products, attention": Selective((*PRODUCTS, *ATTENTION)),
    "those, and norms": Selective((*PRODUCTS, *ATTENTION, *NORMS)),
}


def find_gradient(task: Task, gradient: Gradient, steps: int) -> Tensor:
    """d loss / d x_T through a chain, (B, C, h, w)."""
    x_T = task.x_T.requires_grad_()
    x_0 = sample(task.denoiser, x_T, task.model.schedule.times(steps), gradient=gradient)
    losses = Checked(task.require_loss())(task.model.decode(x_0))
    (found,) = torch.autograd.grad(losses.sum(), x_T)
    return found


def tabulate_keeping(task: Task, steps: int, repeat: int) -> str:
    """What each way to keep costs, in units of the walk's own operations."""
    exact, rows = find_gradient(task, Backprop(), steps), []
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        sample(task.denoiser, task.x_T, task.model.schedule.times(steps))
    walk = counter.get_total_flops()
    for name, gradient in KEEPING.items():
        work = partial(find_gradient, task, gradient, steps)
        with FlopCounterMode(display=False) as counter:
            found = work()
        with LiveBytes() as memory:
            work()
        seconds = min(measure_seconds(work) for _ in range(repeat))
        off = (found - exact).norm() / exact.norm()
        cost = f"{counter.get_total_flops() / walk:.2f}"
        rows.append([name, cost, f"{seconds:.2f}", f"{memory.peak / 2**20:.0f}", f"{off:.0e}"])
    return table(["kept", "operations, of a walk", "s", "peak MiB", "relative error"], rows)


# --- cheaper gradients ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Rung:
    """A gradient of the ladder.

    Args:
        name: What it is called.
        gradient: How the chain is differentiated.
        steps: Of the chain that is.
    """

    name: str
    gradient: Approximate | Truncated
    steps: int = STEPS

    @property
    def passes(self) -> float:
        """What a gradient costs: network passes, looking at the images included."""
        if isinstance(self.gradient, Truncated):
            return self.steps + 2 * self.gradient.last + 2 * LOOK
        return self.gradient.count_passes(self.steps) + 2 * LOOK


RUNGS = (
    Rung("exact", Approximate()),
    Rung("the prompt's branch alone, w times", Approximate(branch="detached")),
    Rung("the prompt's branch for both", Approximate(branch="alike")),
    Rung("every other step", Approximate(every=2)),
    Rung("the last 10 steps", Truncated(10)),
    Rung("the last 5 steps", Truncated(5)),
    Rung("a chain of 10 steps", Approximate(), 10),
    Rung("a chain of 5 steps", Approximate(), 5),
    Rung("a chain of 4 steps", Approximate(), 4),
    Rung("a chain of 2 steps", Approximate(), 2),
)


class Cheaper(DOODL):
    """DOODL's loop with one of these gradients."""

    how: Approximate | Truncated

    def gradient(self, keep: int = 0) -> Gradient:
        return self.how


def measure_cosines(tasks: Sequence[Task], rungs: Sequence[Rung]) -> dict[str, list[float]]:
    """The cosine of each rung's gradient with the exact one, of each image."""
    found: dict[str, list[float]] = {}
    for task in tasks:
        exact = find_gradient(task, Checkpoint(), STEPS)
        for rung in rungs:
            mine = find_gradient(task, rung.gradient, rung.steps)
            cosines = functional.cosine_similarity(mine.flatten(1), exact.flatten(1), dim=1)
            found.setdefault(rung.name, []).extend(cosines.tolist())
    return found


def optimise(task: Task, rung: Rung, rate: float, budget: int) -> Tensor:
    """The images (B, 3, 64, 64) that a budget of passes finds, drawn in all steps."""
    short = rung.steps < STEPS
    last = STEPS + LOOK  # the last noise is judged too, and of short chains the best drawn again
    left = budget - (rung.steps + LOOK + 2 * last if short else last)
    method = Cheaper.bare(
        how=rung.gradient,
        steps=rung.steps,
        iterations=max(0, int(left // rung.passes)),
        optimiser=Adam(rate=rate),
        final_steps=STEPS if short else None,
    )
    return method(task).images


def measure_success(
    tasks: Sequence[tuple[Wish, Task]],
    rung: Rung,
    rates: Sequence[float],
    budget: int,
    work: Path,
) -> tuple[float, list[float]]:
    """The rate that does best, and the overlap with what was wanted of each image at it.

    Kept in a folder, so that a stopped benchmark goes on where it was.
    """
    found: dict[float, list[float]] = {}
    for rate in rates:
        asked = "; ".join(f"{wish.name} {task.seeds}" for wish, task in tasks)
        key = f"{zlib.crc32(asked.encode()):08x}"
        path = work / f"{rung.name}, {budget}, {rate:g}, {key}.json"
        if not path.exists():
            pairs = [(optimise(task, rung, rate, budget), wish.picture) for wish, task in tasks]
            made = [float(each) for images, to in pairs for each in measure_overlap(images, to)]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(made))
            print(rung.name, f"{rate:g}", bootstrap(made), sep=" | ", flush=True)
        found[rate] = json.loads(path.read_text())
    best = max(found, key=lambda rate: sum(found[rate]))
    return best, found[best]


def publish_kept(model: Model, arguments: argparse.Namespace) -> None:
    """The table of what is kept of a chain."""
    task = make_task(model, OTHER_WISHES[0], [0])
    text = [
        "## What is kept of a chain for its way back",
        f"`python benchmarks/ladder.py --only kept` on {machine()}. The bundled world, "
        f"T = {STEPS}, guided, one image.",
        tabulate_keeping(task, arguments.kept, arguments.repeat),
    ]
    publish("kept", "\n\n".join(text), dry=arguments.dry)


def publish_cheaper(model: Model, arguments: argparse.Namespace) -> None:
    """The table of gradients from which something is left out."""
    seeds = range(TUNING_SEED, TUNING_SEED + arguments.seeds)
    wishes = [OTHER_WISHES[i] for i in arguments.wishes]
    pairs = [(wish, make_task(model, wish, seeds)) for wish in wishes]
    judged = [*wishes, OTHER_WISHES[0]]  # by a network as well
    rungs, rows = RUNGS[: arguments.rungs], []
    cosines = measure_cosines([make_task(model, wish, seeds) for wish in judged], rungs)
    for rung in rungs:
        row = [rung.name, f"{rung.passes:g}", str(bootstrap(cosines[rung.name]))]
        for budget in arguments.budgets:
            rate, overlap = measure_success(pairs, rung, arguments.rates, budget, arguments.work)
            row.append(f"{bootstrap(overlap)}, {rate:g}")
        print(*row, sep=" | ", flush=True)
        rows.append(row)
    asked = [f"IoU after {budget:,} passes, Adam's rate" for budget in arguments.budgets]
    rates = " ".join(f"{rate:g}" for rate in arguments.rates)
    text = [
        "## Cheaper gradients",
        f"`python benchmarks/ladder.py --only cheaper --rates {rates}` on {machine()}. The bundled "
        f"world, T = {STEPS}, guided; 95 % intervals over images. Gradients from which something "
        f"is left out, {len(judged)} wishes x {len(seeds)} seeds at the seeds' own noise; a pass "
        "is a guidance pair forwards or backwards, or a look at an image. Then the noise is "
        f"optimised, {len(wishes)} pictures x {len(seeds)} seeds, at the best of Adam's rates "
        "that were tried; a short chain's best noise is drawn again in all steps, and the better "
        "of the two pictures counts.",
        table(["gradient", "passes", "cosine with the exact one", *asked], rows),
    ]
    publish("ladder", "\n\n".join(text), dry=arguments.dry)


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--device", default="cpu", toy="cpu")
    options.add("--only", choices=("kept", "cheaper"), toy=None, help="only one of the tables")
    options.add("--seeds", type=int, default=4, toy=1)
    options.add("--budgets", type=int, nargs="+", default=[1000], toy=[64])
    options.add("--rates", type=float, nargs="+", default=[0.1, 0.3], toy=[0.05])
    options.add("--rungs", type=int, default=len(RUNGS), toy=2, help="only the first ones")
    options.add("--kept", type=int, default=STEPS, toy=2, help="steps of the first table's chain")
    options.add("--repeat", type=int, default=5, toy=1)
    options.add("--work", type=Path, default=Path("runs/ladder"), toy=Path("runs/toy/ladder"))
    options.add("--wishes", type=int, nargs="+", default=WISHES, toy=[1])
    arguments = options.parse(argv)
    warnings.filterwarnings("ignore")
    model = chainrule.load(device=arguments.device)
    if arguments.only != "cheaper":
        publish_kept(model, arguments)
    if arguments.only != "kept":
        publish_cheaper(model, arguments)


if __name__ == "__main__":
    main()
