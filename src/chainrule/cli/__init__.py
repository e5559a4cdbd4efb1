"""The command line."""

from chainrule.cli._app import app, main

__all__ = ["app", "main"]
