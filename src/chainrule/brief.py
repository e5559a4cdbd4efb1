"""One short line for what holds tensors and networks: shapes instead of numbers."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from reprlib import Repr
from typing import Any

from torch import Tensor, nn

PLAIN = ("builtins", "pathlib", "torch")
"""The modules whose objects say briefly enough what they are."""


class Brief:
    """Something whose `repr` is one short line.

    A dataclass shows its fields, but for those that are what they are by default.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__repr__ = cls.__repr__  # type: ignore[method-assign]  # or @dataclass writes its own

    def __repr__(self) -> str:
        return _BRIEF.repr(self)


class _Brief(Repr):
    """Python's own short repr, which knows tensors, networks and dataclasses."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 60, 60
        self.maxtuple = self.maxlist = self.maxdict = 4

    def repr1(self, x: Any, level: int) -> str:
        kind = type(x)
        if isinstance(x, Tensor):
            return describe_tensor(x)
        own: object = kind.__repr__
        if isinstance(x, Brief) and own is not Brief.__repr__:
            return repr(x)  # it has a short line of its own
        if is_dataclass(x) and not isinstance(x, type):
            if level <= 1:
                return f"{kind.__name__}(...)"
            shown = {each.name: getattr(x, each.name) for each in fields(x) if _says(x, each)}
            inner = (f"{name}={self.repr1(value, level - 1)}" for name, value in shown.items())
            return f"{kind.__name__}({', '.join(inner)})"
        if callable(x) and not isinstance(x, nn.Module) and hasattr(x, "__name__"):
            return str(x.__name__)
        if kind.__module__ in PLAIN:
            return super().repr1(x, level)
        return kind.__name__


def describe_tensor(value: Tensor) -> str:
    """A tensor by its dtype and shape; a single number by itself.

    >>> import torch
    >>> describe_tensor(torch.zeros(2, 3)), describe_tensor(torch.tensor(0.5))
    ('float32 (2, 3)', '0.5')

    Args:
        value: Any tensor.
    """
    if value.ndim == 0 and value.device.type == "cpu":
        return f"{value.item():g}" if value.is_floating_point() else f"{value.item()}"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _says(x: Any, field: Field[Any]) -> bool:
    """Whether a field says something: it is shown, and not what it is by default."""
    value = getattr(x, field.name, MISSING)
    if not field.repr or value is MISSING or value is field.default:
        return False
    return not (isinstance(value, tuple) and value == () == field.default)


_BRIEF = _Brief()
