"""The terminal as one consumer of a run's events, and how errors end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from chainrule.cli._options import NAMES
from chainrule.errors import UserError
from chainrule.runs import (
    Done,
    Event,
    Iteration,
    MethodBegun,
    PictureReady,
    PlanChosen,
    Step,
    Warned,
)
from chainrule.runs.spec import explain_error

console = Console(stderr=True)
FLAGS = {
    "photo": "PHOTO of `chainrule edit`",
    "pictures": "the pictures themselves",
    "seeds": "--seed",
    "loras": "--lora",
    "embeddings": "--embedding",
}
"""How a user of the command line writes what is not an option of the same name."""


def write_flag(field: str) -> str:
    """A setting as it is written here."""
    return FLAGS.get(field) or NAMES.get(field) or f"--{field.replace('_', '-')}"


@contextmanager
def plain_errors() -> Iterator[None]:
    """One sentence and exit code 2 for what the user can cure; warnings in one line."""
    warnings.showwarning = lambda message, *_, **__: _warn(str(message))
    _hush()
    try:
        yield
    except ValidationError as error:
        _fail(explain_error(error))
    except UserError as error:
        _fail(error)


def follow(events: Iterator[Event], folder: Path, *, quiet: bool = False) -> None:
    """Show a run's progress until it is done, and print where its picture is.

    Ctrl-C stops the run, and says where the best so far is.
    """
    begun = False
    with _Display(quiet) as display:
        try:
            for event in events:
                begun = begun or _has_made(event)
                display.show(event)
        except KeyboardInterrupt:
            close = getattr(events, "close", None)
            if close is not None:
                close()
            _tell_stop(folder, begun)
            raise typer.Exit(130) from None


class _Display:
    """Bars with an estimate of the time left: one for iterations, one for a chain's steps."""

    def __init__(self, quiet: bool) -> None:
        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, disable=quiet)
        self.outer: TaskID = self.progress.add_task("iteration", total=None, note="", visible=False)
        self.inner: TaskID = self.progress.add_task("", total=None, note="", visible=False)

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        """One event."""
        if isinstance(event, MethodBegun):
            self.progress.reset(self.outer, total=event.total, visible=event.total is not None)
            self.progress.update(self.outer, completed=event.done, note="")
            self.progress.reset(self.inner, description=escape(event.label), visible=False)
        elif isinstance(event, Step):
            self.progress.update(self.inner, completed=event.done, total=event.total, visible=True)
        elif isinstance(event, Iteration):
            self.progress.update(self.outer, completed=event.done, note=_note(event.numbers))
        elif isinstance(event, Warned):
            _warn(event.message)
        elif isinstance(event, PlanChosen):
            console.print(f"memory plan: {escape(event.plan)}", highlight=False)
        elif isinstance(event, Done):
            self.progress.update(self.outer, completed=self._whole())
            typer.echo(event.picture)
        elif not isinstance(event, PictureReady):
            console.print(escape(str(event)))

    def _whole(self) -> float | None:
        """All iterations: one that stopped early is done as well."""
        return self.progress.tasks[0].total


def _note(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def _has_made(event: Event) -> bool:
    """Whether there is something to keep."""
    return isinstance(event, Iteration) or (isinstance(event, MethodBegun) and event.done > 0)


def _tell_stop(folder: Path, begun: bool) -> None:
    if begun:
        console.print(
            f"stopped; the best so far is in {escape(str(folder))}, "
            f"`chainrule resume {escape(str(folder))}` goes on",
            soft_wrap=True,
        )
    else:
        console.print("stopped before anything was made")


def _warn(message: str) -> None:
    console.print(f"[yellow]warning:[/] {escape(message)}", highlight=False)


def _fail(error: UserError) -> None:
    flag = "" if error.field is None else f" ({write_flag(error.field)})"
    console.print(f"[red]error:[/] {escape(f'{error}{flag}')}", highlight=False, soft_wrap=True)
    raise typer.Exit(2)


def _hush() -> None:
    """Keep the libraries below from talking over the progress bars."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
