"""How images are looked for within a budget of passes, for `rare.py`: all ways, by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from base import use_preset
from chainrule.methods import DNO, DOODL, Adam, Langevin, Method, Momentum, ReNO, Search, Task
from chainrule.methods.best_of import Best, keep_better
from chainrule.methods.chains import generate
from chainrule.methods.chunking import finish
from chainrule.methods.hybrid import Hybrid
from chainrule.methods.tfg import LOOK, TFG, Like

STEPS = 20
SEEDS, TUNING_SEED = 16, 10_000
POOL = 4096
"""How many plain draws say how rare a wish is."""
AT_ONCE = 256
"""How many images are drawn together, of several draws of each seed."""


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
LAST = "gradient of the last 5 steps"
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
    LAST: exact(Adam(rate=0.3), last=5),
    "exact gradient, momentum": pushed(300.0),
    "exact gradient, white noise": kept(whiten=True, renormalise=True, reparameterise=True),
    "DOODL, its paper's": Spending(faithful),
    "ReNO": reno(20.0),
    "DNO": dno(0.05),
    "Langevin": langevin(0.003),
}
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
    **{
        f"hybrid, {part:g} on draws, inversion solved, the last 5 steps, Adam {rate:g}": hybrid(
            part, last=5, solve=3, optimiser=Adam(rate=rate)
        )
        for part, rate in ((0.8, 0.02), (0.8, 0.1), (0.5, 0.1))
    },
    "search by halving": search("halving"),
    **{
        f"search by moves, {part:g} on draws": search("moves", searched=part) for part in (0.3, 0.6)
    },
    **{
        f"search by particles, sharpness {each:g}": search("particles", sharpness=each)
        for each in (10.0, 30.0, 100.0)
    },
    **{f"exact gradient, Adam {rate:g}": exact(Adam(rate=rate)) for rate in (0.02, 0.05, 0.1, 0.3)},
    **{
        f"gradient of the last {last} steps, Adam {rate:g}": exact(Adam(rate=rate), last=last)
        for last, rate in ((5, 0.05), (5, 0.1), (5, 0.3), (5, 0.6), (2, 0.3), (10, 0.3))
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
