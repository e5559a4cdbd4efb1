"""How a run goes, for whoever looks: what its events said so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from chainrule.runs.events import (
    Done,
    Event,
    Iteration,
    Loaded,
    MethodBegun,
    PictureReady,
    PlanChosen,
    Step,
    Warned,
)


@dataclass(frozen=True)
class Progress:
    """What is known at a moment.

    Args:
        label: The method at work; nothing before the first.
        part: What is counted: "iteration", or another part of the method, in words.
        done: How many are done.
        total: How many there are; None if that is not known.
        step: How many steps of the present chain are done, and how many it has.
        numbers: How the last iteration went, by name.
        left: The seconds that this part still takes, if it goes on like that; None: not known.
        notes: What should be known, a sentence each.
        pictures: What was written, in its order.
        finished: Whether all is written.
    """

    label: str = ""
    part: str = "iteration"
    done: int = 0
    total: int | None = None
    step: tuple[int, int] = (0, 0)
    numbers: tuple[tuple[str, float], ...] = ()
    left: float | None = None
    notes: tuple[str, ...] = ()
    pictures: tuple[Path, ...] = ()
    finished: bool = False


@dataclass
class Live:
    """The events of a run, from one thread to any other.

    Args:
        clock: Seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _now: Progress = field(default_factory=Progress)
    _begun: tuple[float, int] = (0.0, 0)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def now(self) -> Progress:
        """What is known now."""
        with self._lock:
            return self._now

    def tell(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            self._now = self._after(event)

    def _after(self, event: Event) -> Progress:
        now = self._now
        if isinstance(event, MethodBegun):
            self._begun = self.clock(), event.done
            return replace(
                now, label=event.label, part=event.part, done=event.done, total=event.total,
                step=(0, 0), numbers=(), left=None,
            )  # fmt: skip
        if isinstance(event, Iteration):
            if event.part != now.part:
                self._begun = self.clock(), event.done
            return replace(
                now, part=event.part, done=event.done, total=event.total, step=(0, 0),
                numbers=tuple(event.numbers.items()), left=self._estimate(event),
            )  # fmt: skip
        if isinstance(event, Step):
            return replace(now, step=(event.done, event.total))
        if isinstance(event, PictureReady):
            return replace(now, pictures=(*now.pictures, event.path))
        if isinstance(event, (Warned, PlanChosen, Loaded)):
            said = (
                event.message if isinstance(event, Warned) else str(getattr(event, "plan", event))
            )
            return replace(now, notes=(*now.notes, said))
        return replace(now, finished=True, left=0.0) if isinstance(event, Done) else now

    def _estimate(self, event: Iteration) -> float | None:
        """The seconds that are left of this part, at its mean pace so far."""
        began, before = self._begun
        made = event.done - before
        if event.total is None or made < 1:
            return None
        return (self.clock() - began) / made * max(event.total - event.done, 0)
