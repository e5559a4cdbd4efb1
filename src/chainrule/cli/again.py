"""The commands that go on with a run, or do one again: run, resume, rerun."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli._ask import name_folder
from chainrule.cli._options import JSON, OUTPUT, QUIET
from chainrule.cli._terminal import console, follow, plain_errors
from chainrule.runs import Folder, RunSpec, execute, find_run, list_strange, read_spec
from chainrule.specs import expand, map_files

Output = Annotated[Path | None, OUTPUT.info]
Quiet = Annotated[bool, QUIET.info]
Json = Annotated[bool, JSON.info]


def run(
    spec: Annotated[Path, typer.Argument(help="The spec of a run: JSON, or YAML.", metavar="SPEC")],
    output: Output = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Do the run that a file describes, as `spec.json` in a run's folder does.

    Files that it names are looked for beside it. The networks that it names are loaded, of which
    only weights are read: no code that comes with them is run.
    """
    with plain_errors():
        asked = map_files(read_spec(spec), lambda file: expand(spec).parent / expand(file))
        folder = name_folder(output, asked)
        _tell_networks(asked, quiet=quiet)
        follow(execute(asked, folder), folder, quiet=quiet, json=json)


def resume_run(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.", metavar="RUN")],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Go on with a run that was stopped; it ends as if it had never been stopped.

    The networks that it names are loaded, of which only weights are read.
    """
    with plain_errors():
        spec = Folder.open(folder).written
        _tell_networks(spec, quiet=quiet)
        follow(execute(spec, folder), folder, quiet=quiet, json=json)


def rerun(
    picture: Annotated[Path, typer.Argument(help="An image of a run, or its contact sheet.")],
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="The model, in the place of the picture's.")
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="A file that it was made of, if its run's folder has it no more; several.",
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load the networks that the picture names.")
    ] = False,
    output: Output = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make a picture again, from the settings that it carries.

    A picture may be a stranger's: of the networks that it names, those that chainrule does not
    bring are loaded with --trust only.
    """
    with plain_errors():
        spec = find_run(picture, trust=trust, model=model, inputs=input or ())
        folder = name_folder(output, spec)
        _tell_networks(spec, quiet=quiet)
        follow(execute(spec, folder), folder, quiet=quiet, json=json)


def _tell_networks(spec: RunSpec, *, quiet: bool) -> None:
    """Say which networks are loaded that chainrule does not bring."""
    names = list_strange(spec)
    if names and not quiet:
        console.print(f"loads {', '.join(names)}", markup=False, highlight=False, soft_wrap=True)
