"""The command line."""

from chainrule.cli._main import main

__all__ = ["main"]
