"""Which noise leads back to an image that was guided: `python benchmarks/returning.py`.

The hybrid's exact gradient begins at noise whose own, unguided image is near the best guided one.
DDIM's inversion finds it for the cost of a chain, and drifts; solving each of its steps, or
optimising the noise, drifts less and costs more; EDICT's inversion is exact, for a chain of twice
the cost. Pictures on the wishes that `rare.py` chooses its settings on, one guided draw each, then
the gradient for what is left of equal budgets.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

import chainrule
from base import Options, machine, publish, table
from chainrule import DDIM, EDICT, Checkpoint, Solver, invert, sample, sample_state
from chainrule.diffusion.denoiser import Denoiser
from chainrule.methods import DOODL, Adam, Task
from chainrule.methods.chunking import decode
from chainrule.methods.tfg import LOOK, TFG
from chainrule.metrics import bootstrap
from ways import STEPS, TUNING_SEED
from wishes import OTHER_WISHES, make_task, measure_overlap

WISHES = (1, 2, 3)
"""Of `OTHER_WISHES`: those that are pictures."""
DIRECT, PAIR = DDIM(), EDICT(mix=0.97)
LASTS = (None, 5)
"""In how many of the last steps the gradient differentiates the network; None: in all."""


@dataclass(frozen=True)
class Way:
    """How the noise of an image is found.

    Args:
        name: For people.
        find: The solver's latents at the noise, from the latents x_0 and the noise that they were
            guided from.
        passes: What that costs.
        solver: What leads back.
    """

    name: str
    find: Callable[[Denoiser, Tensor, Tensor], tuple[Tensor, ...]]
    passes: int
    solver: Solver = DIRECT


def invert_by(solver: Solver) -> Callable[[Denoiser, Tensor, Tensor], tuple[Tensor, ...]]:
    """A solver's own inversion."""

    def find(denoiser: Denoiser, x_0: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return invert(denoiser, x_0, denoiser.schedule.times(STEPS), solver=solver)

    return find


def optimise(count: int, rate: float) -> Callable[[Denoiser, Tensor, Tensor], tuple[Tensor, ...]]:
    """DDIM's inversion, then Adam on the distance of the image that the noise leads to."""

    def find(denoiser: Denoiser, x_0: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        times = denoiser.schedule.times(STEPS)
        x_T = invert(denoiser, x_0, times)[0].requires_grad_()
        adam, none = torch.optim.Adam([x_T], lr=rate), torch.full((len(x_T),), torch.inf)
        best = (x_T.detach().clone(), none)
        for _i in range(count):
            with torch.enable_grad():
                off = sample(denoiser, x_T, times, gradient=Checkpoint()) - x_0
                distance = off.square().flatten(1).sum(dim=1)
                x_T.grad = torch.autograd.grad(distance.sum(), x_T)[0]
            best = _keep(best, x_T, distance)
            adam.step()
        with torch.no_grad():
            off = sample(denoiser, x_T, times) - x_0
        return (_keep(best, x_T, off.square().flatten(1).sum(dim=1))[0],)

    return find


def _keep(best: tuple[Tensor, Tensor], x: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image the nearer noise, and how near it is."""
    distance, x = distance.detach(), x.detach()
    nearer = distance < best[1]
    return (
        torch.where(nearer[:, None, None, None], x, best[0]),
        torch.where(nearer, distance, best[1]),
    )


WAYS = (
    Way("the noise that it was guided from", lambda _, __, x_T: (x_T,), 0),
    Way("DDIM's inversion", invert_by(DDIM()), STEPS),
    Way("its steps solved, 3 calls each", invert_by(DDIM(solve=3)), 3 * STEPS),
    Way("its steps solved, 6 calls each", invert_by(DDIM(solve=6)), 6 * STEPS),
    Way("DDIM's inversion, then 5 iterations", optimise(5, 0.05), STEPS + 5 * 3 * STEPS + STEPS),
    Way("DDIM's inversion, then 15 iterations", optimise(15, 0.05), STEPS + 15 * 3 * STEPS + STEPS),
    Way("EDICT's inversion", invert_by(PAIR), 2 * STEPS, PAIR),
)


@torch.no_grad()
def return_to(
    task: Task, way: Way, latents: Tensor, x_T: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The noise that was found, as the solver's latents, and the latents that it leads to."""
    found = way.find(task.denoiser, latents, x_T)
    times = task.model.schedule.times(STEPS)
    back = sample_state(task.denoiser, found, times, solver=way.solver)
    return found, back[0]


def go_on(task: Task, way: Way, found: tuple[Tensor, ...], budget: int, last: int | None) -> Tensor:
    """The best images of the gradient from there, in what is left of a budget."""
    pair = len(found)
    each = pair * (STEPS + 2 * (last or STEPS) + 2 * LOOK)
    count = max(0, (budget - way.passes - pair * (STEPS + LOOK)) // each)
    mix = PAIR.mix if pair == 2 else None
    method = DOODL(
        mix=mix,
        perturbation=0.0,
        renormalise=False,
        crops=0,
        steps=STEPS,
        iterations=count,
        last=last,
        optimiser=Adam(rate=0.02),
    )
    state = method.start(task, found)
    while not method.finished(state):
        state = method.advance(task, state)
    return method.result(task, state).images


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--seeds", type=int, default=4, toy=1)
    options.add("--budgets", type=int, nargs="+", default=[400], toy=[30])
    options.add("--ways", type=int, default=len(WAYS), toy=3, help="only the first ones")
    options.add("--wishes", type=int, nargs="+", default=WISHES, toy=[1])
    arguments = options.parse(argv)
    warnings.filterwarnings("ignore")
    model = chainrule.load()
    seeds = range(TUNING_SEED, TUNING_SEED + arguments.seeds)
    guide, cases = TFG(like="strong", steps=STEPS), []
    for i in arguments.wishes:
        wish = OTHER_WISHES[i]
        task = make_task(model, wish, seeds)
        cases.append((wish, task, guide.walk(task, task.x_T).latents))
    rows = []
    for way in WAYS[: arguments.ways]:
        off, norms, overlap = list[float](), list[float](), list[float]()
        later: dict[object, list[float]] = {}
        for wish, task, latents in cases:
            found, back = return_to(task, way, latents, task.x_T)
            off += (
                (back - latents).flatten(1).norm(dim=1) / latents.flatten(1).norm(dim=1)
            ).tolist()
            norms += (found[0].flatten(1).norm(dim=1) / found[0][0].numel() ** 0.5).tolist()
            overlap += measure_overlap(decode(task, back), wish.picture).tolist()
            for asked in product(arguments.budgets, LASTS):
                better = measure_overlap(go_on(task, way, found, *asked), wish.picture)
                later.setdefault(asked, []).extend(better.tolist())
        row = [way.name, f"{way.passes}", str(bootstrap(off)), f"{sum(norms) / len(norms):.2f}"]
        rows.append([*row, *(str(bootstrap(each)) for each in (overlap, *later.values()))])
        print(*rows[-1], sep=" | ", flush=True)
    drawn = [measure_overlap(decode(task, x_0), wish.picture).tolist() for wish, task, x_0 in cases]
    header = [
        "noise",
        "passes",
        "its image is off by",
        "norm",
        "IoU of its image",
        *(
            f"then the {'exact gradient' if last is None else f'gradient of the last {last}'}, "
            f"{budget} passes in all"
            for budget, last in product(arguments.budgets, LASTS)
        ),
    ]
    text = [
        "## Back to the noise of a guided image",
        f"`python benchmarks/returning.py` on {machine()}. {len(cases)} pictures x {len(seeds)} "
        "seeds, a strongly guided draw each, whose IoU with what was wanted is "
        f"{bootstrap([each for some in drawn for each in some])}; 95 % intervals over images. Off: "
        "the distance of latents as a share of their norm. Then the gradient of the loss (Adam, "
        "rate 0.02) in what is left of a budget, the guided draw itself not counted among "
        "what is found.",
        table(header, rows),
    ]
    publish("returning", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
