"""Solvers against network calls, AdjointDPM's Table 1 on the bundled world: `python benchmarks/solvers.py`.

Images of fresh captions without guidance, by several solvers at equal numbers of network calls: the Frechet distance in
the judge's features to as many renders, and how far the latents are from the solution of the same ODE (RK4 in 200
calls). All start at the same noise, so differences of the distance are paired: both sets are add_jumps together.
Latents are kept in the work folder, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule import DDIM, RK4, AdamsBashforth, DPMSolver, Heun, sample
from chainrule.metrics import Interval, bootstrap, frechet_distance
from chainrule.models import Model
from chainrule.diffusion.ode import Original, Rho, Straight
from chainrule.pictures import from_pil
from chainrule.scenes.base import render, sample_scene
from chainrule.scenes.judge import load_judge
from chainrule.diffusion.schedule import Grid, karras, log_snr, quadratic, uniform
from chainrule.diffusion.solvers import Solver
from vocabulary import features

CALLS = (10, 15, 20, 30, 50)
TRUTH = "the ODE's solution"
BATCH = 64
REFERENCE_SEED = 100_000

SOLVERS: dict[str, tuple[Solver, int]] = {
    "plain ODE (eq. 4), AB4": (AdamsBashforth(4, Original()), 4),
    "reparameterised (eq. 19), AB4": (AdamsBashforth(4, Rho()), 4),
    "reparameterised (eq. 19), AB2": (AdamsBashforth(2, Rho()), 0),
    "straight, AB4": (AdamsBashforth(4, Straight()), 4),
    "straight, AB2": (AdamsBashforth(2, Straight()), 0),
    "straight, Heun": (Heun(Straight()), 0),
    "DDIM": (DDIM(), 0),
    "DPM-ODESolver++(2M)": (DPMSolver(), 0),
}
"""Each solver, and how many calls it spends on its start."""

JUDGED = ("plain ODE (eq. 4), AB4", "reparameterised (eq. 19), AB4", "straight, AB2", "DDIM", "DPM-ODESolver++(2M)")
"""Those whose images are loss_and_gradient; the others are only compared with the solution."""

GRIDS: dict[str, Grid] = {"uniform": uniform, "quadratic": quadratic, "log-SNR": log_snr, "Karras": karras}


def steps_for(name: str, calls: int) -> int:
    """How many steps spend so many calls."""
    solver, start = SOLVERS[name]
    return (calls - start) // solver.calls


@torch.no_grad()
def latents(model: Model, work: Path, name: str, count: int, solver: Solver, times: Tensor) -> Tensor:
    """The latents of the first `count` captions and seeds."""
    parts = []
    for first in range(0, count, BATCH):
        path = work / name / f"{first}.safetensors"
        if not path.exists():
            seeds, began = range(first, first + BATCH), time.perf_counter()
            denoiser = model.denoiser([sample_scene(seed).caption for seed in seeds], guidance_scale=1.0)
            found = sample(denoiser, model.noise(seeds), times, solver=solver)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"latents": found}, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
            print(f"{name}: {first + BATCH} of {count}, {time.perf_counter() - began:.0f} s", flush=True)
        parts.append(load_file(path)["latents"])
    return torch.cat(parts)[:count]


def off(found: Tensor, truth: Tensor) -> Interval:
    """|z - z*| / |z*| of each image, on average."""
    return bootstrap(((found - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).tolist())


def paired(found: Tensor, other: Tensor, reference: Tensor, draws: int = 200) -> Interval:
    """The difference of two distances to the same reference, all three add_jumps, the two together."""
    rng, values = np.random.default_rng(0), []
    for _ in range(draws):
        one, two = (torch.from_numpy(rng.integers(len(found), size=len(found))) for _ in range(2))
        values.append(frechet_distance(found[one], reference[two]) - frechet_distance(other[one], reference[two]))
    value = frechet_distance(found, reference) - frechet_distance(other, reference)
    return Interval(value, *np.quantile(values, [0.025, 0.975]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--close", type=int, default=64, help="how many images are compared with the solution")
    parser.add_argument("--work", type=Path, default=Path("runs") / "solvers")
    arguments = parser.parse_args()
    count, close, work = arguments.images, arguments.close, arguments.work
    model, judge = chainrule.load(), load_judge()

    def made(name: str, calls: int, count: int, grid: str = "uniform") -> Tensor:
        solver, steps = SOLVERS[name][0], steps_for(name, calls)
        return latents(model, work, f"{name} {calls} {grid}", count, solver, GRIDS[grid](model.schedule, steps))

    @torch.no_grad()
    def seen(found: Tensor) -> Tensor:
        return features(judge, torch.cat([model.decode(part) for part in found.split(BATCH)]))

    truth = latents(model, work, TRUTH, count, RK4(Straight()), uniform(model.schedule, 50))
    near = truth[:close]
    grids = [
        [f"{name}, {calls} calls", *(off(made(name, calls, close, grid), near) for grid in GRIDS)]
        for name in SOLVERS
        for calls in (10, 20)
    ]
    errors = [[name, *(off(made(name, calls, close), near) for calls in CALLS)] for name in SOLVERS]
    renders = from_pil([render(sample_scene(REFERENCE_SEED + seed)) for seed in range(2 * count)])
    with torch.no_grad():
        rebuilt = torch.cat([model.decode(model.encode(part)) for part in renders.split(BATCH)])
    reference, others = features(judge, rebuilt).split(count)
    best = seen(truth)
    rows, gaps = [], []
    for name in JUDGED:
        found = [seen(made(name, calls, count)) for calls in CALLS]
        rows.append([name, *(f"{frechet_distance(each, reference):.2f}" for each in found)])
        gaps.append([name, *(f"{paired(each, best, reference):}" for each in found)])
    header = [f"{calls} calls" for calls in CALLS]
    floor = frechet_distance(others, reference)
    text = [
        "## Solvers, at equal numbers of network calls",
        f"`python benchmarks/solvers.py --images {count} --close {close}` on {machine()}. Captions and noise of seeds "
        f"from 0, no guidance, times evenly spaced in t; the reference is {count} renders that the autoencoder has "
        f"rebuilt; {count} other ones are {floor:.2f} from them, the ODE's solution (RK4, 200 calls) is "
        f"{frechet_distance(best, reference):.2f}. An AB4 of n steps spends n + 4 calls, so at 10 calls it makes 6.",
        "Frechet distance (AdjointDPM's Table 1):",
        table(["solver", *header], rows),
        "Its difference to that of the ODE's solution, paired, with 95 % intervals (above 0: worse):",
        table(["solver", *header], gaps),
        f"How far the latents are from the ODE's solution, |z - z*| / |z*|, {close} images:",
        table(["solver", *header], errors),
        "The same for other time grids:",
        table(["solver", *GRIDS], grids),
    ]
    publish("solvers", "\n\n".join(text))


if __name__ == "__main__":
    main()
