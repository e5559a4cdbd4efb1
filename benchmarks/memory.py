"""What `chainrule estimate` says beside the allocator's record: `python benchmarks/memory.py`.

Each row is a whole DOODL run of two iterations, on the bundled model or on a tiny pipeline of
another family with random weights, under one plan. The estimate runs a few steps and extrapolates;
the measurement adds up the allocations that PyTorch's profiler records, and the weights.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

import chainrule
from base import Options, machine, publish, table
from chainrule.losses import Classifier, load_classifier
from chainrule.memory import Plan, arrange, count_bytes, distinct_modules, format_bytes
from chainrule.methods import DOODL, Task
from chainrule.runs import measure

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import allocated, family, save_classifier  # type: ignore[import-not-found]

MODELS = ("scenes", "Stable Diffusion 1.x", "Stable Diffusion XL", "Stable Diffusion 3")
PLANS = (
    Plan(keep=4),
    Plan(),
    Plan(decode_batch=1, batch_size=2),
    Plan(decode_batch=1, batch_size=1, gradient_checkpointing=True),
)
METHODS = {
    "DDIM": DOODL(iterations=1, steps=8, mix=None, crops=2),
    "EDICT": DOODL(iterations=1, steps=8, mix=0.99, crops=2),
}


def make_task(name: str, folder: Path) -> Task:
    """Four images of a model, and a loss.

    Args:
        name: The bundled model's, or a family's.
        folder: Where a tiny classifier may be saved.
    """
    if name == "scenes":
        model, loss = chainrule.load(), Classifier(load_classifier(), "heart")
    else:
        save_classifier(folder)
        model = chainrule.load(family(name))
        loss = Classifier(load_classifier(folder), "star")
    return Task(model, model.denoiser("a red shape", guidance_scale=2.0), (0, 1, 2, 3), loss)


def measure_peak(task: Task, method: DOODL) -> int:
    """The most bytes of a whole run, by the allocator's record, and the weights."""
    with arrange(task.model, task.loss, task.plan):
        found: int = allocated(lambda: method(task))
    judges = () if task.loss is None else task.loss.networks
    return found + count_bytes(distinct_modules(task.model.networks, judges))


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--models", nargs="+", choices=MODELS, default=MODELS, toy=MODELS[1:2])
    options.add("--solvers", nargs="+", choices=METHODS, default=[*METHODS], toy=["DDIM"])
    options.add("--plans", type=int, default=len(PLANS), toy=1, help="how many of them")
    arguments = options.parse(argv)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for name in arguments.models:
        for solver in arguments.solvers:
            method = METHODS[solver]
            for plan in PLANS[: arguments.plans]:
                with tempfile.TemporaryDirectory() as folder:
                    task = make_task(name, Path(folder)).under(plan)
                said = measure(solver, method, task).under().peak
                found = measure_peak(task, method)
                error = f"{100 * (said / found - 1):+.1f} %"
                rows.append([name, solver, plan, format_bytes(said), format_bytes(found), error])
                print(*rows[-1], sep=" | ", flush=True)
    header = ["model", "solver", "plan", "estimate", "measured", "error"]
    text = [
        "## The estimate of memory",
        f"`python benchmarks/memory.py` on {machine()}. Peaks of whole runs, 4 images, 8 steps, "
        "weights included; the measurement is of the allocator's own record, the estimate from "
        "chains of two and three steps.",
        table(header, rows),
    ]
    publish("memory", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
