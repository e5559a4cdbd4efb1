"""What a run takes before it begins: its peak memory, from a few real steps, and the roomiest plan within a limit.

Memory is affine in the number of steps T and in the number of kept graphs k, so that chains of two and three steps tell
the rest. With s the bytes of a solver's state and p(T, k) the peak of a phase (`Phases`),

    p(T, 0) = p(2, 0) + (T - 2) s        p(T, k) = p(3, 1) + (k - 1) (p(3, 2) - p(3, 1)) + (T - 3) s
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from chainrule.diffusion.constraints import constrain
from chainrule.draw import draw
from chainrule.errors import UserError
from chainrule.diffusion.gradient.base import Chain
from chainrule.memory import bytes_of, format_bytes, measured, modules, out_of_memory
from chainrule.methods import Doodl, Task
from chainrule.methods.base import loss_and_gradient
from chainrule.methods.doodl import seen_in
from chainrule.plan import Plan
from chainrule.settings import Method, Settings


class Phases(NamedTuple):
    """Peak bytes above the weights: while a chain walks, while its images are loss_and_gradient, while its gradient comes back."""

    walk: int
    judge: int
    back: int

    def plus(self, factor: int, other: Phases) -> Phases:
        """These and `factor` times the others."""
        return Phases(*(a + factor * b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Estimate:
    """What a method takes under a plan, in bytes: `peak` is all of it at its most.

    `weights` are those on the device, `solver` the activations of one step, `kept` the graphs of the kept steps,
    `latents` those of all steps and of the optimisation, `judging` images and losses with their activations; `passes`
    is what an iteration costs, in network passes for all images. Of a method that does not iterate, only `weights`,
    `solver` (all the rest) and `peak` are told apart.
    """

    method: Method
    plan: Plan
    weights: int
    step: int
    peak: int
    kept: int = 0
    latents: int = 0
    judging: int = 0
    passes: int = 0


def estimate(settings: Settings, task: Task) -> list[Estimate]:
    """What each method of `settings` takes for `task` (theirs), under the task's plan. Runs a few steps of each."""
    return [
        Optimisation.measure(task, settings.optimised[method]).under(method=method)
        if method in settings.optimised
        else drawing(settings, task, method)
        for method in settings.methods
    ]


def drawing(settings: Settings, task: Task, method: Method) -> Estimate:
    """What a method that draws once takes, whatever the number of steps: it is run in two."""
    few = settings.model_copy(update={"steps": 2, "best_of": 2})
    with torch.no_grad(), measured(task.model.device) as memory:
        draw(few, method, task)
        peak = memory.peak
    weights = resident(task)
    return Estimate(method, task.plan, weights, peak, weights + peak)


@dataclass(frozen=True)
class Optimisation:
    """Measured chains of an optimisation, as short as can be: `none` of its steps kept, one, two.

    `task` is what is computed together, of `images` in all.
    """

    task: Task
    images: int
    settings: Doodl
    none: Phases
    one: Phases
    two: Phases

    @classmethod
    def measure(cls, task: Task, settings: Doodl) -> Optimisation:
        """Run three short chains and their gradients."""
        _, together = task.parts(task.plan.together)[0]
        shorter, short = min(2, settings.steps), min(3, settings.steps)
        lengths = ((shorter, 0), (short, 1), (short, min(2, short)))
        return cls(together, len(task.seeds), settings, *(_phases(together, settings, *length) for length in lengths))

    def under(self, keep: int | None = None, method: Method = "doodl") -> Estimate:
        """What it takes if `keep` steps are kept (None: as many as the task's plan keeps)."""
        settings, state, short = self.settings, self.state, min(2, self.settings.steps) * self.state
        keep = self.task.plan.keep if keep is None else keep
        keep, together = min(keep, settings.steps), len(self.task.seeds)
        own = OWN * state * self.images // together * (1 if self.images == together else 2)
        weights, phases = resident(self.task), self.phases(keep)
        return Estimate(
            method,
            self.task.plan.model_copy(update={"keep": keep}),
            weights=weights,
            step=max(self.none.walk, self.none.back) - short,
            kept=keep * (self.two.judge - self.one.judge + state),
            latents=(settings.steps - keep) * state + own,
            judging=self.none.judge - short,
            passes=settings.solver.calls * ((3 + self.task.plan.rebuilt) * settings.steps - keep) * self.images,
            peak=weights + max(phases) + own,
        )

    def phases(self, keep: int) -> Phases:
        """Those of the whole chain."""
        steps, each = self.settings.steps, Phases(self.state, self.state, self.state)
        if not keep:
            return self.none.plus(steps - min(2, steps), each)
        graph = self.two.plus(-1, self.one)
        return self.one.plus(keep - 1, graph).plus(steps - min(3, steps), each)

    @property
    def state(self) -> int:
        """The bytes of the solver's state."""
        return sum(x.nbytes for x in self.settings.solver.init(self.task.x_T))


OWN = 5
"""The states that an optimisation carries: the noise, its best, the optimiser's two, and the next; twice as many if it
goes on with some images before others."""


def _phases(task: Task, settings: Doodl, steps: int, keep: int) -> Phases:
    times = tuple(task.model.schedule.times(settings.steps).tolist())[: steps + 1]
    step, latents = constrain(settings.solver, task.constraints), settings.solver.init(task.x_T)
    with torch.enable_grad(), measured(task.model.device) as memory:
        x_T = torch.stack(latents).requires_grad_()
        chain = Chain(task.denoiser, times, step)
        last = step.latents(settings.gradient(keep).integrate(chain, step.begin(x_T.unbind())))
        walk = memory.peak
        memory.restart()
        found = loss_and_gradient(task, partial(seen_in, settings, 0), last)
        judge = memory.peak
        memory.restart()
        torch.autograd.grad(last, x_T, found.gradients)
        return Phases(walk, judge, memory.peak)


def resident(task: Task) -> int:
    """The bytes of the weights that are on the device."""
    device = task.model.device.type
    return bytes_of(
        network
        for network in modules(task.model, task.loss)
        if any(weight.device.type == device for weight in network.parameters())
    )


def plans(task: Task) -> Iterator[Plan]:
    """Those that are tried: rebuilding every step, then always less memory; weights in bfloat16 at last."""
    plan = Plan()
    yield plan
    for tighter in plan.tighter(len(task.seeds), task.model.device):
        yield (plan := tighter)
    if any(weight.dtype == torch.float32 for weight in task.model.network.weights):
        yield plan.model_copy(update={"half": True})


def fitted(settings: Settings, task: Task) -> Task:
    """`task` (the settings') under the fastest plan that needs no more than their `memory`; as it is if that is None.

    Raises UserError, with what is missing, if there is no such plan.
    """
    limit = settings.memory
    if limit is None:
        return task
    least: int | None = None
    for plan in plans(task):
        task = task.under(plan)
        try:
            least = max(found.peak for found in estimate(settings, task))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            continue  # a step of this plan did not fit: the next is tighter
        if least <= limit:
            if plan.half:
                warnings.warn("the weights are in bfloat16, to fit: the gradient is off by some percent", stacklevel=2)
            return task.under(_roomiest(settings, task, limit)) if plan == Plan() else task
    missing = f"needs {format_bytes(least)}, {format_bytes(least - limit)} more than" if least else "does not fit"
    raise UserError(
        f"even with {task.plan} the run {missing} the {format_bytes(limit)} of memory: choose a smaller --size, a smaller "
        "loss network, or more --memory"
    )


def _roomiest(settings: Settings, task: Task, limit: int) -> Plan:
    """The plan that keeps as many graphs as fit."""
    found = [Optimisation.measure(task, each) for each in settings.optimised.values()]
    most = max((each.settings.steps for each in found), default=0)

    def fits(keep: int) -> bool:
        return all(each.under(keep).peak <= limit for each in found)

    return Plan(keep=next(keep for keep in range(most, -1, -1) if fits(keep)))


def ladder(settings: Settings, task: Task) -> Iterator[Estimate]:
    """What each method of `settings` takes for `task` (theirs), from the fastest way to the one of least memory.

    A plan under which a step does not fit the device is left out.
    """
    for plan in plans(task):
        task = task.under(plan)
        try:
            for method in settings.methods:
                if method not in settings.optimised:
                    yield drawing(settings, task, method)
                    continue
                optimised = settings.optimised[method]
                found, steps = Optimisation.measure(task, optimised), optimised.steps
                kept = sorted({steps, steps // 2, steps // 4, 0}, reverse=True) if plan == Plan() else [0]
                yield from (found.under(keep, method) for keep in kept)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
