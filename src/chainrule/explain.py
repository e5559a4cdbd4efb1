"""What a method does, its paper and its limits, in ten lines: the head of its own file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

from chainrule import methods
from chainrule.errors import UserError
from chainrule.settings import Method

NAMED: dict[str, Callable[..., Any]] = {"reconstruction": methods.reconstruction, "ddim": methods.edict}
"""Methods that are another's function."""


def explained(method: str) -> str:
    """What the file of `method` (a `chainrule.settings.Method`) says of it. Raises UserError if there is none."""
    known = get_args(Method)
    if method not in known:
        raise UserError(f"there is no method {method!r}: choose among {', '.join(sorted(known))}")
    function = NAMED.get(method) or getattr(methods, method.replace("-", "_"))
    head, limits, rest = (inspect.getdoc(inspect.getmodule(function)) or "").partition("Limits:")
    return head + limits + rest.partition("\n\n")[0]  # what follows is for those who read the code
