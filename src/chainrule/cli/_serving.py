"""Serving pages: at which names, on which socket, until a signal."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import typer

from chainrule.cli._terminal import console
from chainrule.errors import UserError, find_reason
from chainrule.study import StudyFolder
from chainrule.study.serve import LOOPBACK

PATIENCE = 3
"""The seconds for which what is being sent may still take when the server is stopped."""


def find_names(host: str, allow: Sequence[str]) -> list[str]:
    """The names under which a server may be reached besides this machine's own for itself.

    Args:
        host: The address that it listens at.
        allow: Those that were typed.

    Raises:
        UserError: It can be reached from elsewhere, and nobody said by which name.
    """
    names = list(allow)
    if host not in (*LOOPBACK, "0.0.0.0", "::"):
        names.append(host)
    if host not in LOOPBACK and not names:
        raise UserError(
            f"at {host} it can be reached from elsewhere, and nobody said by which name",
            "say it, as in study.example.org",
            "allow",
        )
    return names


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError if the port is taken, or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"port {port} at {host} cannot be used ({find_reason(error)})", "choose another", "port"
        ) from error


def give_links(opened: StudyFolder, address: str, *, anew: bool) -> None:
    """Print a link for each rater of a study, if they are new.

    Args:
        opened: The study.
        address: Where it is served.
        anew: Whether others are made in the place of those that there are.
    """
    if opened.answers.count_tokens() and not anew:
        console.print(
            f"serves at {address}; the links were printed when they were made "
            "(--new-links makes others)",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        return
    for rater, token in enumerate(opened.answers.make_tokens(opened.study.raters), 1):
        typer.echo(f"rater {rater}: {address}/r/{token}")


def run_server(app: Any, listening: socket.socket) -> None:
    """Serve until a signal. Addresses are not logged: they have the tokens."""
    import uvicorn

    settings = uvicorn.Config(
        app, access_log=False, log_level="warning", server_header=False,
        timeout_graceful_shutdown=PATIENCE,
    )  # fmt: skip
    uvicorn.Server(settings).run(sockets=[listening])
