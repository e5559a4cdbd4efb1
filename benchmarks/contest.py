"""Several methods on the same cases and seeds: their images, kept from run to run, their cost."""

from __future__ import annotations

import fcntl
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from base import Options, shorten, shorten_settings, table, use_preset
from chainrule.diffusion.solvers import State as Latents
from chainrule.methods import DOODL, Adam, BestOf, Method, OneStepGuidance, Plain, Result, Task
from chainrule.metrics import Interval, bootstrap
from chainrule.runs.passes import Passes
from chainrule.specs import Spec


def make_options(
    about: str | None, work: str, *, tune: bool = True, only: Sequence[str] | None = None
) -> Options:
    """The options that all contests have.

    Args:
        about: What the benchmark is.
        work: The folder in runs/ where its images are kept.
        tune: Whether there is something to choose.
        only: How the names of those begin that are run at toy size; None: all are.
    """
    options = Options(about)
    if tune:
        help_ = "compare hyper-parameters on other seeds"
        options.add_argument("--tune", action="store_true", help=help_)
    help_ = "run only methods whose name begins so"
    options.add("--only", nargs="*", help=help_, toy=only)
    options.add(
        "--work",
        type=Path,
        default=Path("runs") / work,
        help="where images are kept",
        toy=Path("runs") / "toy" / work,
    )
    return options


@dataclass(frozen=True, eq=False)
class Contender:
    """A method under test.

    Args:
        name: What it is called in tables.
        method: A method, or a function of a task and of `settings`.
        settings: What such a function takes besides the task.
        limit: How many of each group's cases it is run on; None: all.
    """

    name: str
    method: Callable[..., Result]
    settings: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None

    @property
    def made_by(self) -> str:
        """What its images depend on, but for the weights.

        A setting that is new and at its default changes nothing.
        """
        method = _dump(self.method) if isinstance(self.method, Method) else self.method.__name__
        settings = {key: _dump(value) for key, value in self.settings.items()}
        return json.dumps([method, settings], sort_keys=True, default=repr)

    def shorten(self) -> Contender:
        """The same at toy size."""
        method = shorten(self.method) if isinstance(self.method, Method) else self.method
        return replace(self, method=method, settings=shorten_settings(self.settings))


def _dump(value: object) -> object:
    if isinstance(value, FunctionType):
        return value.__name__
    if isinstance(value, partial):
        return [_dump(value.func), value.keywords]
    if not isinstance(value, Spec):
        return value
    return {"kind": getattr(value, "kind", "")} | value.model_dump(exclude_defaults=True)


@dataclass(frozen=True, eq=False)
class Case:
    """Some images that are asked for together.

    Args:
        name: What tells it from the contest's other cases.
        seeds: One for each image.
        task: Makes the task.
    """

    name: str
    seeds: tuple[int, ...]
    task: Callable[[], Task]


@dataclass(frozen=True)
class Made:
    """What a method made of all cases.

    Args:
        images: (N, 3, H, W), in the order of cases and seeds.
        passes: What an image cost in network passes, the mean. A guidance pair is one.
        seconds: Likewise, the median: a benchmark may have been paused.
    """

    images: Tensor
    passes: float
    seconds: float

    @property
    def costs(self) -> tuple[str, str]:
        """For a table: network passes and seconds per image."""
        return f"{self.passes:.0f}", f"{self.seconds:.1f}"


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Hold a file while something is made, until it is made or the process ends.

    Args:
        path: The file.

    Yields:
        Whether it is held now: False if another process holds it.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class Contest:
    """Runs methods on cases.

    Images are kept in a folder named after all that decides what they are, so that a stopped
    benchmark goes on where it was, and several processes may share the work.

    Args:
        passes: Counts the evaluations of the model that the cases are for.
        work: The folder.
        weights: The folders and files of the networks that are asked.
        toy: Whether everything is run at toy size.
    """

    def __init__(
        self, passes: Passes, work: Path, weights: Sequence[Path], *, toy: bool = False
    ) -> None:
        self.passes, self.work, self.weights, self.toy = passes, work, weights, toy

    @cached_property
    def _made_with(self) -> bytes:
        files = [
            file
            for path in self.weights
            for file in (sorted(path.rglob("*.safetensors")) or [path])
        ]
        return b"".join(file.read_bytes() for file in files)

    def _size(self, contender: Contender) -> Contender:
        """A contender at the contest's size."""
        return contender.shorten() if self.toy else contender

    def _path(self, contender: Contender, case: Case) -> Path:
        key = zlib.crc32(self._size(contender).made_by.encode() + self._made_with)
        return self.work / f"{contender.name} {key:08x}" / f"{case.name}.safetensors"

    def play(
        self,
        contenders: Iterable[Contender],
        cases: Sequence[Case] | Callable[[Contender], Sequence[Case]],
        only: Sequence[str] | None = None,
    ) -> dict[Contender, Made]:
        """Run methods on their cases.

        Args:
            contenders: The methods.
            cases: Those of all, or of each.
            only: How the names of those that are run begin; None: all are.

        Returns:
            What each has made so far, those that were not run included.
        """
        found = {}
        for contender in contenders:
            asked = cases(contender) if callable(cases) else cases
            if only is None or contender.name.startswith(tuple(only)):
                self.run(contender, asked)
            if made := self.collect(contender, asked):
                found[contender] = made
        return found

    def run(self, contender: Contender, cases: Iterable[Case]) -> None:
        """Make what is not yet made, and what no other process is making now."""
        for case in cases:
            path = self._path(contender, case)
            path.parent.mkdir(parents=True, exist_ok=True)
            with claim(path.with_suffix(".lock")) as mine:
                if mine and not path.exists():
                    self._make(contender, case, path)

    def _make(self, contender: Contender, case: Case, path: Path) -> None:
        """Make the images of a case, and keep them with what they cost."""
        asked = self._size(contender)
        before, began = self.passes.total, time.perf_counter()
        images = asked.method(case.task(), **asked.settings).images.cpu()
        seconds = time.perf_counter() - began
        spent = (self.passes.total - before) / 2
        cost = torch.tensor([spent, seconds]) / len(case.seeds)
        partial = path.with_suffix(f".{time.time_ns()}")
        save_file({"images": images.contiguous().clone(), "cost": cost}, partial)
        partial.replace(path)
        done = f"{case.name}, {len(case.seeds)} images: {seconds:.0f} s"
        print(f"{contender.name}: {done}", flush=True)

    def collect(self, contender: Contender, cases: Sequence[Case]) -> Made | None:
        """What has been made; None if a case is missing.

        The cost is over the cases that had one: cases may share their draws, and the first then
        paid for all.
        """
        paths = [self._path(contender, case) for case in cases]
        if not all(path.exists() for path in paths):
            return None
        kept = [load_file(path) for path in paths]
        costs = torch.stack([each["cost"] for each in kept])
        costs = costs[costs[:, 0] > 0] if (costs[:, 0] > 0).any() else costs
        passes, seconds = costs[:, 0].mean().item(), costs[:, 1].median().item()
        return Made(torch.cat([each["images"] for each in kept]), passes, seconds)


class Rivals:
    """What DOODL is compared with, tuned: no guidance, one step's, the best of many draws.

    Args:
        loss: The kind of the loss.
        budget: The network passes an image of those that cost many; None: what DOODL's preset asks.
    """

    def __init__(self, loss: str, budget: int | None = None) -> None:
        preset = use_preset(DOODL, "tuned", loss)
        self.tuned = preset if budget is None else spend_within(preset, budget)
        self.steps = self.tuned.steps
        count = count_equal_draws(self.tuned)
        best_of = BestOf(count=count, steps=self.steps)
        self.plain = Contender("plain", Plain(steps=self.steps))
        self.one_step = self.one_step_at(use_preset(OneStepGuidance, "tuned", loss).scale)
        self.best_of = Contender(f"best of {count} (DOODL's cost)", best_of)
        self.doodl = Contender("DOODL tuned", self.tuned)
        self.all = (self.plain, self.one_step, self.best_of, self.doodl)
        self.questions = (
            (self.one_step, self.plain),
            *((self.doodl, other) for other in (self.plain, self.one_step, self.best_of)),
        )

    def one_step_at(self, scale: float) -> Contender:
        """One-step guidance at another scale."""
        method = OneStepGuidance(scale=scale, steps=self.steps)
        return Contender(f"one-step, scale {scale:g}", method)

    def doodl_from(self, start_of: int, iterations: int, rate: float, crops: int) -> Contender:
        """DOODL with other settings, for tuning."""
        name = (
            f"DOODL from the best of {start_of}, {iterations} iterations, Adam {rate:g}, "
            f"{crops} crops"
        )
        changes = {
            "start_of": start_of,
            "iterations": iterations,
            "optimiser": Adam(rate=rate),
            "crops": crops,
        }
        return Contender(name, self.tuned.model_copy(update=changes))


def optimise_from(task: Task, method: DOODL, x_T: Tensor | Latents) -> Result:
    """What DOODL finds from a start of one's own.

    Args:
        task: What is optimised.
        method: DOODL's settings.
        x_T: The starting noise (B, C, h, w), or the solver's latents there.
    """
    *_, last = method.run(task, method.start(task, x_T))
    return method.result(task, last)


def count_equal_draws(method: DOODL) -> int:
    """How many draws cost what DOODL does.

    That is its start, three passes a step and iteration, and the last image.
    """
    return method.start_of + 3 * method.iterations + 1


def spend_within(method: DOODL, budget: int) -> DOODL:
    """DOODL for fewer network passes, shared out among draws and iterations as it was."""
    draws = budget // method.steps - 1
    iterations = max(1, round(draws * method.iterations / (count_equal_draws(method) - 1)))
    start_of = draws - 3 * iterations
    if start_of < 1:
        raise SystemExit(f"a budget of {budget} is too small: 5 draws take {5 * method.steps}")
    return method.model_copy(update={"start_of": start_of, "iterations": iterations})


def tabulate_differences(
    values: dict[Contender, np.ndarray], questions: Sequence[tuple[Contender, Contender]]
) -> str:
    """A table of paired differences.

    Args:
        values: (groups, ...) of each method; the intervals are over groups.
        questions: Which method is compared with which.
    """
    rows = []
    for one, other in questions:
        if one in values and other in values:
            gaps = (values[one] - values[other]).reshape(len(values[one]), -1).mean(axis=1)
            rows.append([f"{one.name}, less {other.name}", bootstrap(gaps.tolist())])
    return table(["", "difference"], rows)


def average_groups(values: np.ndarray) -> Interval:
    """The mean of `values` (groups, ...), its interval over the groups."""
    return bootstrap(values.reshape(len(values), -1).mean(axis=1).tolist())
