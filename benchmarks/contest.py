"""Several methods on the same cases and seeds: their images, kept from run to run, and what they cost."""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from base import Passes, table
from chainrule.methods import Adam, Doodl, Result, Task, best_of, doodl, one_step, plain
from chainrule.methods.presets import Preset
from chainrule.metrics import Interval, bootstrap
from chainrule.models import Model


def options(about: str | None, work: str, *, tune: bool = True) -> argparse.ArgumentParser:
    """The options that all contests have; `tune` is whether there is something to choose."""
    parser = argparse.ArgumentParser(description=about)
    if tune:
        parser.add_argument("--tune", action="store_true", help="compare hyper-parameters on other seeds")
    parser.add_argument("--only", nargs="*", help="run only methods whose name begins so")
    parser.add_argument("--work", type=Path, default=Path("runs") / work, help="where images are kept")
    return parser


@dataclass(frozen=True, eq=False)
class Contender:
    """A method under test. `limit` is how many of each group's cases it is run on (None: all)."""

    name: str
    method: Callable[..., Result]
    settings: dict[str, object] = field(default_factory=dict)
    limit: int | None = None

    @property
    def made_by(self) -> str:
        """What its images depend on, but for the weights; a setting that is new and at its default changes nothing."""
        plain = {key: _plain(value) for key, value in self.settings.items()}
        return f"{self.method.__name__} {json.dumps(plain, sort_keys=True, default=repr)}"


def _plain(value: object) -> object:
    return value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value


@dataclass(frozen=True, eq=False)
class Case:
    """Some images that are asked for together, one for each seed; `name` tells it from the contest's other cases."""

    name: str
    seeds: tuple[int, ...]
    task: Callable[[], Task]


@dataclass(frozen=True)
class Made:
    """What a method made of all cases: `images` (N, 3, H, W) in the order of cases and seeds, and what one cost.

    `passes` is the mean, `seconds` the median: a benchmark may have been paused.
    """

    images: Tensor
    passes: float
    seconds: float

    @property
    def costs(self) -> tuple[str, str]:
        """For a table: network passes and seconds per image."""
        return f"{self.passes:.0f}", f"{self.seconds:.1f}"


class Contest:
    """Runs methods on cases. Images are kept under `work`, in a folder named after all that decides what they are.

    A stopped benchmark so goes on where it was. `weights` are the folders and files of the networks that are asked.
    """

    def __init__(self, model: Model, work: Path, weights: Sequence[Path]) -> None:
        self.model, self.work, self.weights = model, work, weights
        self.count = Passes(model)

    @cached_property
    def _made_with(self) -> bytes:
        files = [file for path in self.weights for file in (sorted(path.rglob("*.safetensors")) or [path])]
        return b"".join(file.read_bytes() for file in files)

    def _path(self, contender: Contender, case: Case) -> Path:
        key = zlib.crc32(contender.made_by.encode() + self._made_with)
        return self.work / f"{contender.name} {key:08x}" / f"{case.name}.safetensors"

    def play(
        self,
        contenders: Iterable[Contender],
        cases: Sequence[Case] | Callable[[Contender], Sequence[Case]],
        only: Sequence[str] | None = None,
    ) -> dict[Contender, Made]:
        """Run those whose name begins as `only` says (None: all) on their cases; what all of them have made so far."""
        found = {}
        for contender in contenders:
            asked = cases(contender) if callable(cases) else cases
            if only is None or contender.name.startswith(tuple(only)):
                self.run(contender, asked)
            if made := self.made(contender, asked):
                found[contender] = made
        return found

    def run(self, contender: Contender, cases: Iterable[Case]) -> None:
        """Make what is not yet made."""
        for case in cases:
            path = self._path(contender, case)
            if path.exists():
                continue
            self.count.images, began = 0, time.perf_counter()
            result = contender.method(case.task(), **contender.settings)
            seconds = time.perf_counter() - began
            path.parent.mkdir(parents=True, exist_ok=True)
            cost = torch.tensor([self.count.images / 2, seconds]) / len(case.seeds)
            partial = path.with_suffix(f".{time.time_ns()}")
            save_file({"images": result.images.contiguous().clone(), "cost": cost}, partial)
            partial.replace(path)
            print(f"{contender.name}: {case.name}, {len(case.seeds)} images: {seconds:.0f} s", flush=True)

    def made(self, contender: Contender, cases: Sequence[Case]) -> Made | None:
        """What has been made, None if a case is missing.

        The cost is over the cases that had one: cases may share their draws, and the first then paid for all.
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
    """What DOODL is compared with, under the settings of a preset: no guidance, one step's, the best of many draws."""

    def __init__(self, found: Preset) -> None:
        self.settings = settings = found.doodl
        self.steps = settings.steps
        count = equal_draws(settings)
        self.plain = Contender("plain", plain, {"steps": self.steps})
        self.one_step = self.one_step_at(found.one_step_scale)
        self.best_of = Contender(f"best of {count} (DOODL's cost)", best_of, {"count": count, "steps": self.steps})
        self.doodl = Contender("DOODL tuned", doodl, {"settings": settings})
        self.all = (self.plain, self.one_step, self.best_of, self.doodl)
        self.questions = (
            (self.one_step, self.plain),
            *((self.doodl, other) for other in (self.plain, self.one_step, self.best_of)),
        )

    def one_step_at(self, scale: float) -> Contender:
        """One-step guidance at another scale."""
        return Contender(f"one-step, scale {scale:g}", one_step, {"scale": scale, "steps": self.steps})

    def doodl_from(self, start_of: int, iterations: int, rate: float, crops: int) -> Contender:
        """DOODL with other settings, for tuning."""
        name = f"DOODL from the best of {start_of}, {iterations} iterations, Adam {rate:g}, {crops} crops"
        changes = {"start_of": start_of, "iterations": iterations, "optimiser": Adam(rate=rate), "crops": crops}
        return Contender(name, doodl, {"settings": self.settings.model_copy(update=changes)})


def equal_draws(settings: Doodl) -> int:
    """As many draws as cost what DOODL does: its start, three passes a step and iteration, the last image."""
    return settings.start_of + 3 * settings.iterations + 1


def differences(values: dict[Contender, np.ndarray], questions: Sequence[tuple[Contender, Contender]]) -> str:
    """A table of paired differences of `values` (groups, ...) of each method; the groups are add_jumps."""
    rows = []
    for one, other in questions:
        if one in values and other in values:
            gaps = (values[one] - values[other]).reshape(len(values[one]), -1).mean(axis=1)
            rows.append([f"{one.name}, less {other.name}", bootstrap(gaps.tolist())])
    return table(["", "difference"], rows)


def over_groups(values: np.ndarray) -> Interval:
    """The mean of `values` (groups, ...), its interval over the groups."""
    return bootstrap(values.reshape(len(values), -1).mean(axis=1).tolist())
