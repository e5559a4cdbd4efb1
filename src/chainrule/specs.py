"""What can be written down and named: frozen settings, the files that they name, and registries.

A registry holds what a name stands for: the kinds that chainrule brings, and those that other
packages bring through an entry point of the same group.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict

from chainrule.errors import UserError

T = TypeVar("T")


class Spec(BaseModel):
    """Settings that are checked, never change, and can be written as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _File:
    """Marks a path whose file belongs to the run, which copies it into its folder."""


FILE = _File()
File = Annotated[Path, FILE]
"""A file that a run reads: it is copied into the run's folder, so that the folder can be moved."""


def _locate(name: str) -> str:
    """A network's name; of a folder or file that is here, its whole path."""
    path = Path(name).expanduser()
    configs = (path / "config.json", path / "model_index.json")
    here = path.is_file() or any(config.is_file() for config in configs)
    return str(path.absolute()) if here else name


NetworkName = Annotated[str, AfterValidator(_locate)]
"""A network by folder, file or hub name. What is here keeps its whole path, so that a run can be
made again from elsewhere."""


@dataclass(frozen=True)
class Registry(Generic[T]):
    """What each name stands for.

    Args:
        group: The entry points' group, as in `chainrule.methods`.
        what: What one of them is, in words, for messages.
        own: Those that chainrule brings, by name.
    """

    group: str
    what: str
    own: Mapping[str, T] = field(default_factory=dict)

    @cached_property
    def known(self) -> dict[str, T]:
        """Every one by its name, those of other packages last; a name of ours cannot be taken."""
        found = dict(self.own)
        for entry in entry_points(group=self.group):
            if entry.name in found:
                raise UserError(
                    f"{entry.value} calls its {self.what} {entry.name!r}, which there is already",
                    "rename it in that package's entry points",
                )
            try:
                found[entry.name] = entry.load()
            except Exception as error:  # somebody else's code: whatever it raises
                warnings.warn(
                    f"the {self.what} {entry.name!r} of {entry.value} cannot be loaded ({error})",
                    stacklevel=2,
                )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __getitem__(self, name: str) -> T:
        """What `name` stands for. Raises UserError, with the nearest names, if there is none."""
        if name in self.known:
            return self.known[name]
        near = get_close_matches(name, self.known, n=3)
        names = ", ".join(near or sorted(self.known))
        raise UserError(f"there is no {self.what} {name!r}", f"choose among {names}")

    def parse(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        """A pydantic validator of one that is chosen by the `kind` in a mapping.

        Args:
            value: A mapping with a `kind`, or one that is made already.
            handler: pydantic's own.
        """
        if not isinstance(value, Mapping):
            return handler(value)
        kind: Any = self[str(value.get("kind"))]
        return kind.model_validate(value)


def map_files(value: Any, change: Callable[[Path], Path]) -> Any:
    """`value`, a Spec, with each path in a field of type `File` replaced by `change` of it.

    Specs within it, alone or in a tuple, are changed as well.

    Args:
        value: A Spec, or a tuple of them.
        change: The new path of an old one.
    """
    if isinstance(value, tuple):
        return tuple(map_files(each, change) for each in value)
    if not isinstance(value, Spec):
        return value
    changed: dict[str, Any] = {}
    for name, info in type(value).model_fields.items():
        old = getattr(value, name)
        if FILE in info.metadata or _mentions_file(info.annotation):
            new: Any = tuple(map(change, old)) if isinstance(old, tuple) else old and change(old)
        else:
            new = map_files(old, change)
        if new is not old:
            changed[name] = new
    return value.model_copy(update=changed) if changed else value


def list_files(value: Any) -> list[Path]:
    """The paths in all fields of type `File` of a Spec, in their order."""
    found: list[Path] = []

    def keep(file: Path) -> Path:
        found.append(file)
        return file

    map_files(value, keep)
    return found


def _mentions_file(annotation: Any) -> bool:
    """Whether a type is made of `File`."""
    metadata = getattr(annotation, "__metadata__", ())
    return FILE in metadata or any(map(_mentions_file, get_args(annotation)))
