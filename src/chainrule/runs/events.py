"""What a run tells whoever follows it: a terminal, a page, a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True)
class MethodBegun(Event):
    """A method begins, or goes on.

    Args:
        label: Its name in the run.
        total: How many iterations its first part has; None of one that draws once.
        done: How many were done before.
        part: What is counted: "iteration", or another part of the method, in words.
    """

    label: str
    total: int | None
    done: int = 0
    part: str = "iteration"


@dataclass(frozen=True)
class Step(Event):
    """A step of a chain was made.

    Args:
        label: The method's name in the run.
        done: How many steps of this chain are done.
        total: How many it has.
    """

    label: str
    done: int
    total: int


@dataclass(frozen=True)
class Iteration(Event):
    """An iteration was made, and is on disk.

    Args:
        label: The method's name in the run.
        done: How many are done, of those that were asked for: the last is told twice by a method
            that judges what it left.
        total: How many there are; None if that is not known.
        numbers: How it goes, by name: means over the images.
        part: What is counted: "iteration", or another part of the method, in words.
    """

    label: str
    done: int
    total: int | None
    numbers: Mapping[str, float]
    part: str = "iteration"


@dataclass(frozen=True)
class PictureReady(Event):
    """A picture was written."""

    label: str
    path: Path


@dataclass(frozen=True)
class Warned(Event):
    """Something should be known that stops nothing."""

    message: str


@dataclass(frozen=True)
class Loaded(Event):
    """Words and LoRAs were loaded beside the checkpoint: what of them, a line each."""

    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.notes)


@dataclass(frozen=True)
class PlanChosen(Event):
    """The run has a limit of memory, and this is how it keeps to it."""

    plan: str


@dataclass(frozen=True)
class Done(Event):
    """All is written; `picture` is the contact sheet."""

    folder: Path
    picture: Path
