"""The command `studio`: the pages in a browser."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli._serving import find_names, give_links, listen, run_server
from chainrule.cli._stopping import STOPPING
from chainrule.cli._terminal import plain_errors
from chainrule.specs import expand
from chainrule.studio.app import make_app
from chainrule.studio.desk import Desk
from chainrule.study import StudyFolder

Runs = Annotated[
    Path, typer.Option("-o", "--folder", metavar="RUNS", help="Where the runs' folders are.")
]
Host = Annotated[str, typer.Option(help="The address to listen at.")]
Port = Annotated[int, typer.Option(help="The port; 0: any that is free.")]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A host name by which it may be reached besides this machine's own for itself; "
        "several.",
    ),
]
Guarded = Annotated[
    bool, typer.Option("--guarded", help="A run is stopped by the browser only that began it.")
]
Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")]
Study = Annotated[
    Path | None, typer.Option(metavar="STUDY", help="A study's folder: it is asked at /study.")
]


def studio(
    folder: Runs = Path("runs"),
    host: Host = "127.0.0.1",
    port: Port = 7860,
    allow: Allow = None,
    guarded: Guarded = False,
    browser: Browser = True,
    study: Study = None,
) -> None:
    """Make, edit, tune and compare in a browser: what the other commands do, on a page.

    Runs are done one after another, and go on when the page is closed; what was at work when this
    command was stopped goes on at its next start.
    """
    with plain_errors():
        names = find_names(host, list(allow or ()))
        asked = None if study is None else StudyFolder.open(expand(study))
        app = make_app(Desk(expand(folder), guarded=guarded), names, asked)
        with listen(host, port) as listening:
            shown = names[0] if names else "127.0.0.1"
            address = f"http://{shown}:{listening.getsockname()[1]}"
            typer.echo(f"the studio is at {address}")
            if asked is not None:
                asked.check_pictures()
                give_links(asked, f"{address}/study", anew=False)
            STOPPING.message = f"stopped; all runs are in {folder}"
            if browser:  # once it answers: what listens already keeps the request until then
                threading.Timer(0.5, webbrowser.open, [address]).start()
            run_server(app, listening)
