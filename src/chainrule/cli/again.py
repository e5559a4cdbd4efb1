"""The commands that go on with a run, or do one again: run, resume, rerun."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli._ask import name_folder
from chainrule.cli._options import OUTPUT, QUIET
from chainrule.cli._terminal import follow, plain_errors
from chainrule.runs import execute, find_run, read_spec, resume
from chainrule.specs import map_files

Output = Annotated[Path | None, OUTPUT.info]
Quiet = Annotated[bool, QUIET.info]


def run(
    spec: Annotated[Path, typer.Argument(help="The spec of a run: JSON, or YAML.", metavar="SPEC")],
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """Do the run that a file describes, as `spec.json` in a run's folder does.

    Files that it names are looked for beside it.
    """
    with plain_errors():
        asked = map_files(read_spec(spec), lambda file: spec.parent / file.expanduser())
        folder = name_folder(output, asked)
        follow(execute(asked, folder), folder, quiet=quiet)


def resume_run(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.", metavar="RUN")],
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was stopped; it ends as if it had never been stopped."""
    with plain_errors():
        follow(resume(folder), folder, quiet=quiet)


def rerun(
    picture: Annotated[Path, typer.Argument(help="An image of a run, or its contact sheet.")],
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """Make a picture again, from the settings that it carries."""
    with plain_errors():
        spec = find_run(picture)
        folder = name_folder(output, spec)
        follow(execute(spec, folder), folder, quiet=quiet)
