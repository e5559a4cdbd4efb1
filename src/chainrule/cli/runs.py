"""`chainrule resume RUN`, `chainrule rerun PICTURE`, `chainrule models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli import base
from chainrule.estimate import fitted
from chainrule.jobs import carried, opened, prepared
from chainrule.models import installed
from chainrule.run import Run, origin


def resume(run: Annotated[Path, typer.Argument(help="The folder of a run that was stopped.")]) -> None:
    """Go on with a run that was stopped; it ends as if it never had been."""
    with base.plain_errors():
        job = opened(run)
        if job:
            base.execute_job(prepared(job, run, resume=True), run)
        else:
            stopped = Run.open(run)
            base.execute(stopped, fitted(stopped.settings, stopped.settings.task()))


def rerun(
    picture: Annotated[Path, typer.Argument(help="A picture of a run: an image, or its grid.")],
    output: base.Parameterization = None,
) -> None:
    """Make a picture again, from the settings that it carries."""
    with base.plain_errors():
        job = carried(picture)
        if job:
            base.begin_job(job, output, f"{job.kind} again")
            return
        made = origin(picture)
        methods = made.settings.methods if made.method is None else (made.method,)
        run = base.begin(made.settings.model_copy(update={"methods": methods}), output)
        typer.echo(run.folder / ("grid.png" if made.method is None else f"images/{made.method}-{made.seed}.png"))


def models() -> None:
    """List the checkpoints that can be used without a download."""
    for name in installed():
        typer.echo(name)
