"""The entry point, which hears Ctrl-C before anything heavy is imported."""

from __future__ import annotations

import os
import sys

from chainrule.cli._stopping import STOPPING


def main() -> None:
    """The entry point of the `chainrule` command."""
    STOPPING.listen()
    from chainrule.cli._app import app  # takes seconds

    for stream in (sys.stdout, sys.stderr):  # names of files may be of any bytes
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="surrogateescape")
    try:
        app()
    except SystemExit as end:
        if end.code == STOPPING.code:  # the work may not have come to its end: do not wait
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            os._exit(STOPPING.code)
        raise
