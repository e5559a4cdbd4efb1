"""What a run takes before it begins, and the fastest plan within a limit.

Memory is affine in the number of steps T and in the number of kept graphs k, so that chains of two
and three steps tell the rest. With p(T, k) the peak of a phase of an iteration,

    p(T, 0) = p(2, 0) + (T - 2) s
    p(T, k) = p(3, 1) + (k - 1) (p(3, 2) - p(3, 1)) + (T - 3) s

and s the growth a step. Any method that iterates is measured so: by one iteration of itself. Of a
step that is not differentiated, one of three passes is left.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chainrule.errors import UserError
from chainrule.memory import (
    Plan,
    arrange,
    count_bytes,
    distinct_modules,
    format_bytes,
    is_out_of_memory,
    measure_memory,
)
from chainrule.methods.base import Method, Task
from chainrule.runs.load import prepare_methods
from chainrule.runs.passes import Passes
from chainrule.runs.spec import RunSpec

SHORT = 2
"""The least steps of a chain that is measured; another one has a step more."""


@dataclass(frozen=True)
class Probe:
    """One iteration of a short chain.

    Args:
        peaks: The most bytes above the weights, by phase.
        passes: How often the network was evaluated on one latent, both ways; None: not counted.
    """

    peaks: Mapping[str, int]
    passes: int | None


@dataclass(frozen=True)
class Estimate:
    """What a method takes under a plan.

    Args:
        label: The method's name in its run.
        plan: The plan.
        weights: The bytes of the weights that are on the device.
        phases: The most bytes above them, by phase of an iteration.
        passes: What an iteration costs, in evaluations of the network on one latent; None if the
            model does not count them (`runs.passes.count_passes`).
    """

    label: str
    plan: Plan
    weights: int
    phases: Mapping[str, int]
    passes: int | None

    @property
    def peak(self) -> int:
        """The most bytes that are taken at once."""
        return self.weights + max(self.phases.values())


@dataclass(frozen=True)
class Measured:
    """A method, measured by short chains of its own.

    Args:
        label: Its name in its run.
        method: The method.
        task: What it takes, under the plan that was measured.
        short: A chain of `SHORT` steps, no graph kept.
        longer: One of a step more.
        one: As `longer`, with one graph kept; None if graphs are not kept.
        two: As `longer`, with two.
    """

    label: str
    method: Method
    task: Any
    short: Probe
    longer: Probe
    one: Probe | None = None
    two: Probe | None = None

    @property
    def steps(self) -> int:
        """Of the whole chain."""
        return int(getattr(self.method, "steps", SHORT))

    @property
    def differentiated(self) -> int:
        """In how many of them the network is differentiated."""
        return min(self.steps, self.method.truncated or self.steps)

    def under(self, keep: int | None = None) -> Estimate:
        """What the whole chain takes if the graphs of `keep` steps are kept (None: the plan's)."""
        keep = min(self.task.plan.keep if keep is None else keep, self.differentiated)
        if self.one is None or self.two is None:
            keep = 0
        phases = {name: self._extend(name, keep) for name in self.short.peaks}
        plan = self.task.plan.model_copy(update={"keep": keep})
        return Estimate(self.label, plan, count_resident(self.task), phases, self._count(keep))

    def _count(self, keep: int) -> int | None:
        """The network's evaluations in an iteration of the whole chain."""
        short, longer = self.short.passes, self.longer.passes
        if short is None or longer is None:
            return None
        skipped = self.steps - self.differentiated
        saved = skipped * 2 * (longer - short) // 3
        if keep and self.one is not None and self.one.passes is not None:
            saved += keep * (longer - self.one.passes)
        return short + (self.steps - SHORT) * (longer - short) - saved

    def _extend(self, phase: str, keep: int) -> int:
        """The peak of a phase of the whole chain."""
        short, longer = (probe.peaks.get(phase, 0) for probe in (self.short, self.longer))
        growth = max(longer - short, 0)
        if not keep or self.one is None or self.two is None:
            return short + (self.steps - SHORT) * growth
        one, two = (probe.peaks.get(phase, 0) for probe in (self.one, self.two))
        return one + (keep - 1) * (two - one) + (self.steps - SHORT - 1) * growth


def measure(label: str, method: Method, task: Any) -> Measured:
    """Run short chains of a method.

    Args:
        label: Its name in its run.
        method: The method.
        task: What it takes (`Method.prepare`).
    """
    iterates = method.differentiates and method.count_iterations(task) is not None
    lengths = (SHORT, SHORT + 1)
    bare = task.under(task.plan.model_copy(update={"keep": 0}))
    short, longer = (_probe(method, bare, steps) for steps in lengths)
    keeps = task.plan.keep > 0 or task.plan == Plan()
    if not (iterates and keeps) or method_steps(method) <= SHORT:
        return Measured(label, method, task, short, longer)
    one, two = (
        _probe(method, task.under(task.plan.model_copy(update={"keep": keep})), SHORT + 1)
        for keep in (1, 2)
    )
    return Measured(label, method, task, short, longer, one, two)


def method_steps(method: Method) -> int:
    """The steps of a method's chain; 0 if it has none."""
    return int(getattr(method, "steps", 0))


def _probe(method: Method, task: Any, steps: int) -> Probe:
    """One iteration in so many steps, measured."""
    probe, before = method.probe(steps), _count(task)
    with arrange(task.model, task.loss, task.plan), torch.no_grad():
        with measure_memory(task.model.device) as memory:
            states = probe.run(task)
            next(states)
            del states  # what it holds is let go
        after = _count(task)
    spent = None if before is None or after is None else after - before
    return Probe(dict(memory.phases), spent)


def _count(task: Any) -> int | None:
    """The evaluations so far of a network that counts them (`count_passes`); None of others."""
    passes: Passes | None = getattr(task.model.network, "passes", None)
    return None if passes is None else passes.total


def count_resident(task: Any) -> int:
    """The bytes of the weights that are on the task's device."""
    device, model = task.model.device.type, task.model
    with arrange(model, task.loss, task.plan):
        networks = distinct_modules(model.networks, task.judges)
        return count_bytes(
            network
            for network in networks
            if any(weight.device.type == device for weight in network.parameters())
        )


def plans(task: Task) -> Iterator[Plan]:
    """Those that are tried: rebuilding every step, then always less memory, bfloat16 at last."""
    plan = Plan()
    yield plan
    for tighter in plan.tighten(len(task.seeds), task.model.device):
        yield (plan := tighter)
    if any(weight.dtype == torch.float32 for weight in task.model.network.weights):
        yield plan.model_copy(update={"half": True})


def estimate(spec: RunSpec, task: Task) -> list[Estimate]:
    """What each method of `spec` takes for its `task`, under the task's plan.

    Args:
        spec: The run.
        task: What its methods share.
    """
    return [found.under() for found in measure_all(spec, task)]


def measure_all(spec: RunSpec, task: Task) -> list[Measured]:
    """Each method of `spec`, measured under the task's plan. A few steps of each are run.

    Args:
        spec: The run.
        task: What its methods share.
    """
    prepared = prepare_methods(spec, task)
    return [measure(label, method, own) for label, (method, own) in prepared.items()]


def fit_plan(spec: RunSpec, task: Task) -> Task:
    """`task` under the fastest plan that needs no more than the run's memory.

    Args:
        spec: The run; without a limit the task stays as it is.
        task: What its methods share.

    Raises:
        UserError: With what is missing, if there is no such plan.
    """
    limit = spec.memory
    if limit is None:
        return task
    _require_weights_fit(task, limit)
    ways = list(plans(task))
    _require_some_fit(spec, task, ways, limit)
    for plan in ways:
        measured = _try(spec, task.under(plan))
        if measured is not None and _peak(measured) <= limit:
            if plan.half:
                warnings.warn(
                    "the weights are in bfloat16, to fit: the gradient is off by some percent",
                    stacklevel=2,
                )
            return task.under(_keep_most(measured, limit) if plan == Plan() else plan)
    raise _too_little(f"even with {ways[-1]} the run does not fit the", limit)


def _require_weights_fit(task: Task, limit: int) -> None:
    """Raise UserError if the weights alone are too much, which is known without a step."""
    leanest = task.under(list(plans(task))[-1])
    weights = count_resident(leanest)
    if weights > limit:
        more = format_bytes(weights - limit)
        raise _too_little(
            f"the weights alone take {format_bytes(weights)}, {more} more than", limit
        )


def _require_some_fit(spec: RunSpec, task: Task, ways: Sequence[Plan], limit: int) -> None:
    """Raise UserError, with what is missing, if not even the plan of least memory fits.

    It is asked first: a run that cannot be is known by a few steps, not by those of every plan.
    """
    measured = _try(spec, task.under(ways[-1]))
    least = None if measured is None else _peak(measured)
    if least is None or least > limit:
        missing = "does not fit"
        if least is not None:
            more = format_bytes(least - limit)
            missing = f"needs {format_bytes(least)}, {more} more than"
        raise _too_little(f"even with {ways[-1]} the run {missing} the", limit)


def _try(spec: RunSpec, task: Task) -> list[Measured] | None:
    """The run's methods measured under the task's plan; None if a step does not fit the device."""
    try:
        return measure_all(spec, task)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _peak(measured: Sequence[Measured]) -> int:
    return max(found.under().peak for found in measured)


def _too_little(cause: str, limit: int) -> UserError:
    return UserError(
        f"{cause} {format_bytes(limit)} of memory",
        "choose a smaller size, a smaller loss network, or more memory",
        "memory",
    )


def _keep_most(measured: list[Measured], limit: int) -> Plan:
    """The plan that keeps as many graphs as fit."""
    iterating = [each for each in measured if each.one is not None]
    most = max((each.differentiated for each in iterating), default=0)

    def fits(keep: int) -> bool:
        return all(each.under(keep).peak <= limit for each in iterating)

    return Plan(keep=next((keep for keep in range(most, 0, -1) if fits(keep)), 0))


def ladder(spec: RunSpec, task: Task) -> Iterator[Estimate]:
    """What each method takes, from the fastest way to the one of least memory.

    A plan under which a step does not fit the device is left out.

    Args:
        spec: The run.
        task: What its methods share.
    """
    for plan in plans(task):
        task = task.under(plan)
        try:
            for found in measure_all(spec, task):
                steps, kept = found.differentiated, [0]
                if plan == Plan() and found.one is not None:
                    kept = sorted({steps, steps // 2, steps // 4, 0}, reverse=True)
                yield from (found.under(keep) for keep in kept)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
