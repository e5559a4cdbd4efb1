"""What `chainrule estimate` says beside what the allocator gives out: `python benchmarks/memory.py`.

Each row is a whole DOODL run of two iterations, on the bundled model or on a tiny pipeline of another family with
random weights, under one plan. The estimate runs a few steps and extrapolates; the measurement adds up the allocations
that PyTorch's profiler records, and the weights.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import torch

import chainrule
from base import machine, publish, table
from chainrule.estimate import Optimisation
from chainrule.losses import Classifier, load_classifier
from chainrule.memory import bytes_of, format_bytes, modules
from chainrule.methods import Doodl, Task, doodl
from chainrule.plan import Plan

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import allocated, family, save_classifier  # type: ignore[import-not-found]

MODELS = ("scenes", "Stable Diffusion 1.x", "Stable Diffusion XL", "Stable Diffusion 3")
PLANS = (Plan(keep=4), Plan(), Plan(seen=1, together=2), Plan(seen=1, together=1, rebuilt=True))
SETTINGS = {
    "DDIM": Doodl(iterations=1, steps=8, mix=None, crops=2),
    "EDICT": Doodl(iterations=1, steps=8, mix=0.99, crops=2),
}


def task(name: str, folder: Path) -> Task:
    if name == "scenes":
        model, loss = chainrule.load(), Classifier(load_classifier(), "heart")
    else:
        save_classifier(folder)
        model, loss = chainrule.load(family(name)), Classifier(load_classifier(folder), "star")
    return Task(model, model.denoiser("a red shape", guidance_scale=2.0), (0, 1, 2, 3), loss)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for name in MODELS:
        for solver, settings in SETTINGS.items():
            for plan in PLANS:
                with tempfile.TemporaryDirectory() as folder:
                    job = task(name, Path(folder)).under(plan)
                said = Optimisation.measure(job, settings).under().peak
                found = allocated(lambda job=job, settings=settings: doodl(job, settings))  # type: ignore[misc]
                found += bytes_of(modules(job.model, job.loss))
                rows.append([name, solver, plan, format_bytes(said), format_bytes(found), f"{100 * (said / found - 1):+.1f} %"])
                print(*rows[-1], sep=" | ", flush=True)
    header = ["model", "solver", "plan", "estimate", "measured", "error"]
    text = [
        "## The estimate of memory",
        f"`python benchmarks/memory.py` on {machine()}. Peaks of whole runs, 4 images, 8 steps, weights included; the "
        "measurement is of the allocator's own record, the estimate from chains of two and three steps.",
        table(header, rows),
    ]
    publish("memory", "\n\n".join(text))


if __name__ == "__main__":
    main()
