"""What can be written down and named: frozen settings, the files that they name, and registries.

A registry holds what a name stands for: the kinds that chainrule brings, and those that other
packages bring through an entry point of the same group.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from chainrule.bundled import WORLDS
from chainrule.errors import UserError

T = TypeVar("T")
S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """Settings that are checked, never change, and can be written as JSON.

    Raises:
        UserError: For a setting that cannot be. (`model_validate` and its like raise pydantic's
            ValidationError, of which `explain_error` makes one.)
    """

    # JSON knows no infinity: such a setting would be lost on its way to the run's folder
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    if not TYPE_CHECKING:  # the fields are its arguments

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise _explain_setting(error, type(self)) from error

        # to pydantic it is the usual one: what it validates itself does not come through here
        __init__.__pydantic_base_init__ = True

        def __setattr__(self, name: str, value: Any) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                kind = type(self).__name__
                cure = f"make another, as {kind}({name}={value!r:.60})"
                raise UserError("settings never change", cure, name) from error

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        """Refuse what is not a setting, and say what was meant: however deep it is, in a file."""
        if isinstance(values, Mapping):
            for name in values:
                if name not in cls.model_fields:
                    raise _UnknownSettingError(cls, str(name))
        return values


class _UnknownSettingError(UserError):
    """A setting that there is not.

    Args:
        kind: Whose it would be.
        name: What was written.
    """

    def __init__(self, kind: type[Spec], name: str) -> None:
        fields = [each for each in kind.model_fields if each not in ("kind", "version")]
        cure = suggest(name, fields) if fields else "it has none"
        own = kind.model_fields.get("kind")  # files name things by their kinds
        called = kind.__name__.removesuffix("Spec").lower() if own is None else str(own.default)
        super().__init__(f"{called} has no setting {name!r}", cure)
        self.name = name

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str | None, str | None]]:
        return UserError, (self.cause, self.cure, self.field)


def _explain_setting(error: ValidationError, kind: type[Spec]) -> UserError:
    """The first problem of settings; of one that there is not, what was meant."""
    problem = error.errors()[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, _UnknownSettingError) and not problem["loc"]:
        said = f"{kind.__name__} has no setting {cause.name!r}"
        return UserError(said, cause.cure, cause.name)
    return explain_error(error)


def explain_error(error: ValidationError) -> UserError:
    """The first problem of a failed validation: where, and what."""
    problem = error.errors()[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return cause
    where = [part for part in problem["loc"] if isinstance(part, str) and part != "[key]"]
    holders = ("methods", "losses", "inputs", "checkpoint")  # nobody types these
    name = ".".join(p for p in where if p not in holders and not p.startswith("function-"))
    name = name or ".".join(map(str, problem["loc"])) or error.title
    if problem["type"] == "missing":
        return UserError(f"{name} is missing", "write it")
    if problem["type"] == "union_tag_not_found":
        return UserError(
            f"{name} has no kind", f'write it, as {{"kind": ...}}{_near_kind(problem)}'
        )
    found = _quote.repr(problem["input"])
    message = problem["msg"]
    return UserError(
        f"{name} cannot be {found}", _near_word(problem) or f"{message[:1].lower()}{message[1:]}"
    )


def _near_kind(problem: Mapping[str, Any]) -> str:
    """Which of the settings that were written was meant to be the kind."""
    written = problem["input"] if isinstance(problem["input"], Mapping) else {}
    near = get_close_matches("kind", map(str, written), n=1)
    return f", in the place of {near[0]!r}" if near else ""


def _near_word(problem: Mapping[str, Any]) -> str | None:
    """Of words among which one is chosen, the one that was meant; None if none is near."""
    context = problem.get("ctx", {})
    written = context.get("tag", problem["input"])
    words = re.findall(r"'([^']*)'", str(context.get("expected_tags", context.get("expected", ""))))
    near = suggest(written, words) if words and isinstance(written, str) else ""
    return near if near.startswith("did you") else None


_quote = Repr()
"""Of what was found, however long or deep."""
_quote.maxstring = _quote.maxother = 100


# --- files and networks -------------------------------------------------------------------------


class _File:
    """Marks a path whose file belongs to the run, which copies it into its folder."""


class _Network:
    """Marks the name of a network."""


class _Own:
    """Marks a network of which every world has its own."""


def check_path(path: Any) -> Any:
    """A path that can be written down. Raises UserError for one that is not text."""
    text = str(path)
    if isinstance(path, (str, Path)) and ("\0" in text or not _is_text(text)):
        raise UserError(f"{text!r} is not the name of a file in UTF-8", "rename the file")
    return path


def _is_text(text: str) -> bool:
    """Whether it can be written in UTF-8: a name of other bytes cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def expand(path: str | Path) -> Path:
    """A path whose "~" is the home folder. Raises UserError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path} is in the home of a user who is not here", "name another"
        ) from error


def make_whole(path: str | Path) -> Path:
    """A path from the root. Raises UserError if the folder that we are in was removed."""
    try:
        return expand(path).absolute()
    except FileNotFoundError as error:
        raise UserError("the folder that you are in is no longer there", "go to another") from error


FILE = _File()
File = Annotated[Path, FILE, BeforeValidator(check_path)]
"""A file that a run reads: it is copied into the run's folder, so that the folder can be moved."""
AS_WRITTEN = {"networks": "as written"}
"""The context of a validation in which no network is looked for: a stranger's names stay names."""


def locate(name: str) -> str:
    """A network's name; of a folder or file that is here, its whole path.

    A world's name is the world, whatever is here: `./sprites` is a folder.
    """
    if name in WORLDS:
        return name
    path = expand(name)
    configs = (path / "config.json", path / "model_index.json")
    here = os.path.isfile(path) or any(os.path.isfile(config) for config in configs)
    return str(make_whole(path)) if here else name


def _locate(name: str, info: ValidationInfo) -> str:
    return name if info.context == AS_WRITTEN else locate(name)


NETWORK = _Network()
NetworkName = Annotated[str, NETWORK, BeforeValidator(check_path), AfterValidator(_locate)]
"""A network by folder, file or hub name. What is here keeps its whole path, so that a run can be
made again from elsewhere."""
OWN = _Own()
OwnNetwork = Annotated[NetworkName | None, OWN]
"""A network of which every world has its own: None is that of the model's (`name_networks`)."""


MANY = 200
"""How many letters of a list of names a message has at most."""


def suggest(name: str, known: Iterable[str], rest: str = "choose among") -> str:
    """What was meant by a name that is not known, or what there is, for a message.

    >>> suggest("sdedti", ["sdedit", "plain"]), suggest("x", ["sdedit", "plain"])
    ('did you mean sdedit?', 'choose among plain, sdedit')

    Args:
        name: What was written.
        known: What there is.
        rest: What is said before all of it, if nothing is near.
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.7)
    if near:
        return f"did you mean {' or '.join(near)}?"
    whole = ", ".join(names)
    if len(whole) > MANY:
        whole = f"{whole[:MANY].rpartition(', ')[0]}, ..."
    return f"{rest} {whole}"


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
        raise UserError(f"there is no {self.what} {name!r}", suggest(name, self.known))

    def parse(self, value: Any, handler: Callable[[Any], Any], info: ValidationInfo) -> Any:
        """A pydantic validator of one that is chosen by the `kind` in a mapping.

        Args:
            value: A mapping with a `kind`, or one that is made already.
            handler: pydantic's own.
            info: Of this validation.
        """
        if not isinstance(value, Mapping):
            return handler(value)
        if "kind" not in value:
            near = _near_kind({"input": value})
            raise UserError(f"a {self.what} has no kind", f'write it, as {{"kind": ...}}{near}')
        kind: Any = self[str(value["kind"])]
        return kind.model_validate(value, context=info.context)


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
        if FILE in info.metadata or _mentions(FILE, info.annotation):
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


def list_networks(value: Any) -> list[str]:
    """The networks and weights that a Spec names, and those within it, each once.

    They are the fields of type `NetworkName`, and all paths but the files that are copied.

    Args:
        value: A Spec, or a tuple or mapping of them.
    """
    return list(dict.fromkeys(_find_networks(value, named=False)))


def name_networks(value: S, world: str) -> S:
    """A Spec in which networks that are left open are those of a world.

    They are the fields of type `OwnNetwork` that are None, and a name "" in mappings of networks.

    Args:
        value: The Spec. Specs within it are not looked at.
        world: The world's name.
    """
    changed: dict[str, Any] = {}
    for name, info in type(value).model_fields.items():
        old = getattr(value, name)
        if OWN in info.metadata and old is None:
            changed[name] = world
        elif isinstance(old, Mapping) and "" in old and _mentions(NETWORK, info.annotation):
            rest = {each: weight for each, weight in old.items() if each}
            changed[name] = {world: old[""] + rest.pop(world, 0.0), **rest}
    return value.model_copy(update=changed) if changed else value


def _find_networks(value: Any, *, named: bool) -> Iterator[str]:
    """The names in a value, all of whose words are names of networks if it is `named` so."""
    if isinstance(value, Spec):
        for name, info in type(value).model_fields.items():
            if not (FILE in info.metadata or _mentions(FILE, info.annotation)):
                mine = NETWORK in info.metadata or _mentions(NETWORK, info.annotation)
                yield from _find_networks(getattr(value, name), named=mine)
    elif isinstance(value, Mapping):
        yield from _find_networks(tuple(value), named=named)
        yield from _find_networks(tuple(value.values()), named=named)
    elif isinstance(value, tuple):
        for each in value:
            yield from _find_networks(each, named=named)
    elif isinstance(value, Path) or (named and isinstance(value, str)):
        yield str(value)


def _mentions(mark: Any, annotation: Any) -> bool:
    """Whether a type is made of one with this mark: `FILE` or `NETWORK`."""
    metadata = getattr(annotation, "__metadata__", ())
    return mark in metadata or any(_mentions(mark, part) for part in get_args(annotation))
