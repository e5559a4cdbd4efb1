"""The command line: each command parses, makes a spec, and follows what becomes of it."""

from __future__ import annotations

import typer

import chainrule
from chainrule.cli._options import Command, Group
from chainrule.cli.again import rerun, resume_run, run
from chainrule.cli.ask import COMMANDS
from chainrule.cli.show import add_estimate, methods, models
from chainrule.cli.studio import studio
from chainrule.cli.study import study_app

app = typer.Typer(
    name="chainrule",
    cls=Group,
    help="Steer diffusion models with exact gradients through their whole sampling chain.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
for command in COMMANDS:
    command.add_to(app)
add_estimate(app)
app.command("run", cls=Command)(run)
app.command("resume", cls=Command)(resume_run)
app.command("rerun", cls=Command)(rerun)
app.command("methods", cls=Command)(methods)
app.command("models", cls=Command)(models)
app.add_typer(study_app, name="study")
app.command("studio", cls=Command)(studio)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chainrule {chainrule.__version__}")
        raise typer.Exit


@app.callback()
def _callback(
    version: bool = typer.Option(
        False, "--version", callback=_tell_version, is_eager=True, help="Say which version it is."
    ),
) -> None:
    """Steer diffusion models with exact gradients through their whole sampling chain."""


def main() -> None:
    """The entry point of the `chainrule` command."""
    app()
