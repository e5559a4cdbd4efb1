"""The command line: each command parses, calls one thing, and saves a run."""

from __future__ import annotations

import typer

from chainrule.cli.audit import audit
from chainrule.cli.edit import edit
from chainrule.cli.effect import effect
from chainrule.cli.estimate import estimate
from chainrule.cli.generate import generate
from chainrule.cli.guide import guide
from chainrule.cli.invert import invert
from chainrule.cli.runs import models, rerun, resume
from chainrule.cli.stylize import stylize

app = typer.Typer(
    name="chainrule",
    help="Steer diffusion models with exact gradients through their whole sampling chain.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
for command in (generate, guide, edit, effect, stylize, audit, invert, estimate, resume, rerun, models):
    app.command()(command)


def main() -> None:
    """The entry point of the `chainrule` command."""
    app()
