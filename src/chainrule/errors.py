"""The one error that a user can cause and cure."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is one sentence that names the cause and the cure; the command line exits with 2."""
