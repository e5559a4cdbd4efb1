"""Solvers against network calls, AdjointDPM's Table 1: `python benchmarks/solvers.py`.

On the bundled world. Images of fresh captions without guidance, by several solvers at equal numbers
of network calls: the Frechet distance in the judge's features to as many renders, and how far the
latents are from the solution of the same ODE (RK4 in 200 calls). All start at the same noise, so
differences of the distance are paired: both sets are resampled together. Latents are kept in the
work folder, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from base import Options, machine, publish, table
from chainrule import DDIM, RK4, AdamsBashforth, DPMSolver, Heun, sample
from chainrule.diffusion.ode import Original, Rho, Straight
from chainrule.diffusion.solvers import Solver
from chainrule.diffusion.time_grids import TimeGrid, karras, log_snr, quadratic, uniform
from chainrule.images import from_pil
from chainrule.losses import ImageClassifier
from chainrule.metrics import Interval, bootstrap, frechet_distance
from chainrule.models import Model
from chainrule.scenes.base import render, sample_scene
from chainrule.scenes.judge import load_judge
from vocabulary import find_features

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
    "DPM-Solver++(2M)": (DPMSolver(), 0),
}
"""Each solver, and how many calls it spends on its start."""

JUDGED = (
    "plain ODE (eq. 4), AB4",
    "reparameterised (eq. 19), AB4",
    "straight, AB2",
    "DDIM",
    "DPM-Solver++(2M)",
)
"""Those whose images are judged; the others are only compared with the solution."""

GRIDS: dict[str, TimeGrid] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "log-SNR": log_snr,
    "Karras": karras,
}


def count_steps(name: str, calls: int) -> int:
    """How many steps spend so many calls."""
    solver, start = SOLVERS[name]
    return (calls - start) // solver.calls


@dataclass(frozen=True)
class Studio:
    """Draws latents, and keeps them.

    Args:
        model: The model.
        judge: What sees the images.
        work: The folder.
        batch: How many latents are drawn at a time.
    """

    model: Model
    judge: ImageClassifier
    work: Path
    batch: int

    def draw(self, name: str, calls: int, count: int, grid: str = "uniform") -> Tensor:
        """The latents of a solver, in so many calls."""
        solver, steps = SOLVERS[name][0], count_steps(name, calls)
        times = GRIDS[grid](self.model.schedule, steps)
        return self.sample(f"{name} {calls} {grid}", count, solver, times)

    @torch.no_grad()
    def sample(self, name: str, count: int, solver: Solver, times: Tensor) -> Tensor:
        """The latents of the first `count` captions and seeds."""
        parts, model = [], self.model
        for first in range(0, count, self.batch):
            path = self.work / name / f"{first}.safetensors"
            if not path.exists():
                seeds, began = range(first, first + self.batch), time.perf_counter()
                captions = [sample_scene(seed).caption for seed in seeds]
                denoiser = model.denoiser(captions, guidance_scale=1.0)
                found = sample(denoiser, model.noise(seeds), times, solver=solver)
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file({"latents": found}, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
                seconds = time.perf_counter() - began
                done = f"{first + self.batch} of {count}"
                print(f"{name}: {done}, {seconds:.0f} s", flush=True)
            parts.append(load_file(path)["latents"])
        return torch.cat(parts)[:count]

    @torch.no_grad()
    def see(self, latents: Tensor) -> Tensor:
        """The judge's features of the images."""
        images = torch.cat([self.model.decode(part) for part in latents.split(BATCH)])
        return find_features(self.judge, images)

    @torch.no_grad()
    def see_renders(self, count: int) -> tuple[Tensor, ...]:
        """The judge's features of twice `count` renders that the autoencoder rebuilt, halved."""
        seeds = range(REFERENCE_SEED, REFERENCE_SEED + 2 * count)
        renders = from_pil([render(sample_scene(seed)) for seed in seeds])
        model = self.model
        rebuilt = torch.cat([model.decode(model.encode(part)) for part in renders.split(BATCH)])
        return find_features(self.judge, rebuilt).split(count)


def measure_distance(found: Tensor, truth: Tensor) -> Interval:
    """|z - z*| / |z*| of each image, on average."""
    distance = (found - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    return bootstrap(distance.tolist())


def compare(found: Tensor, other: Tensor, reference: Tensor, draws: int) -> Interval:
    """The difference of two Frechet distances to the same reference.

    All three are resampled, the two together.

    Args:
        found: (N, D), the features of one set.
        other: (N, D), of the other.
        reference: (N, D), those that both are compared with.
        draws: How often they are resampled.
    """
    rng, values = np.random.default_rng(0), []

    def subtract(one: Tensor, two: Tensor, to: Tensor) -> float:
        return frechet_distance(one, to) - frechet_distance(two, to)

    for _ in range(draws):
        rows, to = (torch.from_numpy(rng.integers(len(found), size=len(found))) for _ in range(2))
        values.append(subtract(found[rows], other[rows], reference[to]))
    value = subtract(found, other, reference)
    return Interval(value, *np.quantile(values, [0.025, 0.975]))


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--images", type=int, default=512, toy=2)
    help_ = "how many images are compared with the solution"
    options.add("--close", type=int, default=64, toy=2, help=help_)
    options.add("--batch", type=int, default=BATCH, toy=2)
    options.add("--solution", type=int, default=50, toy=2, help="the steps of the solution")
    options.add("--calls", type=int, nargs="+", default=CALLS, toy=[6])
    help_ = "the numbers of calls on other time grids"
    options.add("--grid-calls", type=int, nargs="+", default=[10, 20], toy=[6], help=help_)
    help_ = "how often the images are resampled"
    options.add("--draws", type=int, default=200, toy=2, help=help_)
    work = Path("runs")
    options.add("--work", type=Path, default=work / "solvers", toy=work / "toy" / "solvers")
    arguments = options.parse(argv)
    count, close, calls = arguments.images, arguments.close, arguments.calls
    studio = Studio(chainrule.load(), load_judge(), arguments.work, arguments.batch)
    times = uniform(studio.model.schedule, arguments.solution)
    truth = studio.sample(TRUTH, count, RK4(Straight()), times)
    near = truth[:close]
    grids = [
        [
            f"{name}, {n} calls",
            *(measure_distance(studio.draw(name, n, close, grid), near) for grid in GRIDS),
        ]
        for name in SOLVERS
        for n in arguments.grid_calls
    ]
    errors = [
        [name, *(measure_distance(studio.draw(name, n, close), near) for n in calls)]
        for name in SOLVERS
    ]
    reference, others = studio.see_renders(count)
    best = studio.see(truth)
    rows, gaps = [], []
    for name in JUDGED:
        found = [studio.see(studio.draw(name, n, count)) for n in calls]
        rows.append([name, *(f"{frechet_distance(each, reference):.2f}" for each in found)])
        gaps.append([name, *(compare(each, best, reference, arguments.draws) for each in found)])
    header = ["solver", *(f"{n} calls" for n in calls)]
    floor = frechet_distance(others, reference)
    text = [
        "## Solvers, at equal numbers of network calls",
        f"`python benchmarks/solvers.py --images {count} --close {close}` on {machine()}. Captions "
        "and noise of seeds from 0, no guidance, times evenly spaced in t; the reference is "
        f"{count} renders that the autoencoder has rebuilt; {count} other ones are {floor:.2f} "
        "from them, the ODE's solution (RK4, 200 calls) is "
        f"{frechet_distance(best, reference):.2f}. An AB4 of n steps spends n + 4 calls, so at 10 "
        "calls it makes 6.",
        "Frechet distance (AdjointDPM's Table 1):",
        table(header, rows),
        "Its difference to that of the ODE's solution, paired, with 95 % intervals (above 0: "
        "worse):",
        table(header, gaps),
        f"How far the latents are from the ODE's solution, |z - z*| / |z*|, {close} images:",
        table(header, errors),
        "The same for other time grids:",
        table(["solver", *GRIDS], grids),
    ]
    publish("solvers", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
