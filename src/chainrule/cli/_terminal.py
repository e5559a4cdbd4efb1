"""The terminal as one consumer of a run's events, and how errors end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import dumps, loads
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
from rich.table import Table

from chainrule.cli._options import NAMES
from chainrule.cli._stopping import NOTHING_MADE, STOPPING
from chainrule.errors import UserError, find_reason, tidy
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
from chainrule.runs.folder import SPEC
from chainrule.specs import explain_error

console = Console(stderr=True)
WIDE = 200
"""The width of a table that is not shown on a terminal."""
FLAGS = {
    "photo": "PHOTO of `chainrule edit`",
    "pictures": "the pictures themselves",
    "seeds": "--seed",
    "loras": "--lora",
    "embeddings": "--embedding",
    "trust": "--trust, --model",
    "answers": "--answer",
    "show_prompt": "--prompt, --no-prompt",
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
    STOPPING.message = NOTHING_MADE
    try:
        yield
    except ValidationError as error:
        _fail(explain_error(error))
    except UserError as error:
        _fail(error)
    except BrokenPipeError:  # who reads what is printed has read enough
        raise
    except OSError as error:  # what the system refuses where nobody knew more
        name = "a file" if error.filename is None else str(error.filename)
        reason = error.strerror or find_reason(error)
        _fail(
            UserError(f"{name} cannot be read or written ({reason})", "mend that, or name another")
        )
    except KeyboardInterrupt:
        _say(STOPPING.message)
        raise typer.Exit(STOPPING.code) from None


def follow(
    events: Iterator[Event], folder: Path, *, quiet: bool = False, json: bool = False
) -> None:
    """Show a run's progress until it is done, and print where its picture is, or its report.

    Ctrl-C stops the run, and says where the best so far is.

    Args:
        events: The run's.
        folder: Its folder.
        quiet: Whether nothing but that is shown.
        json: Whether the report is printed, in the place of the picture's name.
    """
    goes_on = f"`chainrule resume {folder}` goes on"
    STOPPING.message = f"stopped; {goes_on}" if _has_states(folder) else NOTHING_MADE
    made = False
    with _Display(quiet) as display:
        try:
            for event in events:
                if not made and _has_made(event):
                    made = STOPPING.patient = True
                    STOPPING.message = f"stopped; {goes_on}"
                elif not made and (folder / SPEC).is_file():
                    STOPPING.message = f"{NOTHING_MADE}; `chainrule resume {folder}` begins it"
                display.show(event)
                if isinstance(event, Done):
                    _print_result(event, json=json)
            STOPPING.message, STOPPING.patient = f"stopped; all is in {folder}", False
        except KeyboardInterrupt:
            close = getattr(events, "close", None)
            if close is not None:
                close()
            _say(
                f"stopped; the best so far is in {folder}, {goes_on}" if made else STOPPING.message
            )
            raise typer.Exit(STOPPING.code) from None
        finally:
            STOPPING.patient = False


def _has_states(folder: Path) -> bool:
    """Whether a run was there before, and did something."""
    try:
        return any(folder.glob("*.safetensors"))
    except (OSError, ValueError):
        return False


def _print_result(done: Done, *, json: bool) -> None:
    """The picture's name, or the report with it."""
    if not json:
        typer.echo(done.picture)
        return
    report = loads((done.folder / "report.json").read_text(encoding="utf-8"))
    typer.echo(dumps({"folder": str(done.folder), "picture": str(done.picture), **report}))


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
            self._count(event, note="")
            self.progress.reset(self.inner, description=escape(event.label), visible=False)
        elif isinstance(event, Step):
            if event.done <= self.progress.tasks[1].completed:  # another chain
                self.progress.reset(self.inner, total=event.total)
            self.progress.update(self.inner, completed=event.done, total=event.total, visible=True)
        elif isinstance(event, Iteration):
            self._count(event, note=_note(event.numbers))
        elif isinstance(event, Warned):
            _warn(event.message)
        elif isinstance(event, PlanChosen):
            console.print(f"memory plan: {escape(event.plan)}", highlight=False)
        elif isinstance(event, (PictureReady, Done)):
            # all iterations that there are: one that was good enough early is done as well
            self.progress.update(self.outer, total=self.progress.tasks[0].completed)
        else:
            console.print(escape(str(event)))

    def _count(self, event: MethodBegun | Iteration, note: str) -> None:
        """Move the bar of the part that a method is in: its iterations, or a search."""
        part, done, total = event.part, event.done, event.total
        self.progress.update(self.outer, description=part, completed=done, total=total, note=note)


def print_table(table: Table) -> None:
    """Print a table, whole if it is not shown on a terminal."""
    out = Console()
    (out if out.is_terminal else Console(width=WIDE)).print(table)


def _note(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def _has_made(event: Event) -> bool:
    """Whether there is something to keep."""
    return isinstance(event, Iteration) or (isinstance(event, MethodBegun) and event.done > 0)


def _say(message: str) -> None:
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def _warn(message: str) -> None:
    line = escape(tidy(message))
    console.print(f"[yellow]warning:[/] {line}", highlight=False, soft_wrap=True)


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
