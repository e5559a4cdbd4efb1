"""chainrule: exact gradients through the whole sampling chain of a diffusion model."""

from __future__ import annotations

TYPE_CHECKING = False  # a type checker knows better; nothing at all is imported before it is needed
if TYPE_CHECKING:
    from chainrule._public import *  # noqa: F403

__version__ = "0.2.0"


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What is public, or a room of the house: imported when it is first asked for.

        So the command line is there to hear Ctrl-C before torch is.
        """
        from importlib import import_module
        from importlib.util import find_spec

        if not name.startswith("_") and find_spec(f"chainrule.{name}") is not None:
            return import_module(f"chainrule.{name}")
        if name == "__all__" or not name.startswith("_"):
            public = import_module("chainrule._public")
            if hasattr(public, name):
                return getattr(public, name)
        raise AttributeError(f"module 'chainrule' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
