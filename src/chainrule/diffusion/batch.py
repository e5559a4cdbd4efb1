"""Some of the images of a batch: what belongs to an image goes with it, what is common stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from torch import Tensor

from chainrule.brief import Brief
from chainrule.errors import UserError

T = TypeVar("T")
Self = TypeVar("Self", bound="PerImage")


def select(value: T, rows: Sequence[int]) -> T:
    """`value` for some of the images of a batch.

    Args:
        value: A tensor, whose first dimension counts images: one row is common to all and stays.
            Something with a method `select(rows)`, which is asked. A tuple, list or mapping of
            such values. Anything else is common to all and stays.
        rows: The numbers of the images.
    """
    return cast(T, _select(value, rows))


def _select(value: Any, rows: Sequence[int]) -> Any:
    if isinstance(value, Tensor):
        return value if value.dim() == 0 or len(value) == 1 else value[list(rows)]
    if hasattr(value, "select"):
        return value.select(rows)
    if isinstance(value, (tuple, list)):
        make = getattr(type(value), "_make", type(value))  # a NamedTuple takes its parts one by one
        return make(_select(part, rows) for part in value)
    if isinstance(value, Mapping):
        return {key: _select(part, rows) for key, part in value.items()}
    return value


class PerImage(Brief):
    """A dataclass whose fields say by themselves what in them belongs to which image."""

    def select(self: Self, rows: Sequence[int]) -> Self:
        """The same for some of the images of a batch: each field goes through `select`."""
        if not is_dataclass(self):
            raise UserError(
                f"a {type(self).__name__} is for a whole batch",
                "make it a dataclass, give it `select`, or compute all images together",
            )
        mine = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        changed = {name: select(value, rows) for name, value in mine.items()}
        return cast(Self, replace(cast(Any, self), **changed))
