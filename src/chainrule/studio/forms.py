"""Forms made from the schema: a setting of a method or a loss is a field, described once.

fields = list_fields(DOODL, DOODL.preset(situation))
values = gather(fields, answers)         # what differs from the defaults, as DOODL(**values)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from chainrule.errors import UserError
from chainrule.specs import Spec

Kind = Literal["switch", "whole", "number", "choice", "text", "list", "weights"]
NONE = "none"
"""What is written for a setting that may be left open."""


@dataclass(frozen=True)
class Blank:
    """One field of a form.

    Args:
        path: The setting's name; of a part of a setting, that of the setting before it.
        kind: What is filled in. A list is a line with commas; weights are NAME=NUMBER, likewise.
        now: What stands there at first: a bool, or a text.
        description: What it is, in a sentence.
        choices: What there is to choose from; of other kinds none.
        optional: Whether `NONE` may be written.
    """

    path: tuple[str, ...]
    kind: Kind
    now: bool | str
    description: str = ""
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def label(self) -> str:
        """For people."""
        return " ".join(self.path).replace("_", " ")


def list_fields(kind: type[Spec], values: Mapping[str, Any] | None = None) -> list[Blank]:
    """The fields of a method's or a loss's form, in its order.

    Args:
        kind: Its class.
        values: What stands there at first, where it is not the default: a preset's.
    """
    values, found = values or {}, list[Blank]()
    for name, info in kind.model_fields.items():
        if name == "kind":
            continue
        value = values.get(name, info.get_default(call_default_factory=True))
        found += _list_field((name,), info, None if info.is_required() else value)
    return found


def gather(fields: Sequence[Blank], answers: Sequence[bool | str | float | None]) -> dict[str, Any]:
    """What was filled in, as the class takes it.

    Args:
        fields: Those of the form.
        answers: One for each.

    Raises:
        UserError: A line of weights is none.
    """
    found: dict[str, Any] = {}
    for field, answer in zip(fields, answers, strict=True):
        *before, last = field.path
        value, holder = _read(field, answer), found
        if before and last == "kind" and value is None:  # there is none, so it has no parts
            before, last = before[:-1], before[-1]
        for part in before:
            holder = holder.setdefault(part, {})
        holder[last] = value
    return found


def _list_field(path: tuple[str, ...], info: FieldInfo, value: Any) -> list[Blank]:
    """The field of a setting, or those of its parts."""
    annotation, optional = _unwrap(info.annotation)
    told = info.description or ""
    nested = _find_nested(annotation)
    if nested:
        return _list_nested(path, nested, value, told, optional)
    if annotation is bool:
        return [Blank(path, "switch", bool(value), told)]
    if get_origin(annotation) is Literal:
        choices = tuple(str(each) for each in get_args(annotation))
        choices = (*choices, NONE) if optional else choices
        return [Blank(path, "choice", _write(value), told, choices, optional)]
    kind: Kind = {int: "whole", float: "number"}.get(annotation, "text")  # type: ignore[assignment]
    origin = get_origin(annotation)
    if origin in (tuple, list):
        kind = "list"
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        kind = "weights"
    return [Blank(path, kind, _write(value), f"{told}{_bounds(info)}", (), optional)]


def _list_nested(
    path: tuple[str, ...], kinds: Sequence[type[BaseModel]], value: Any, told: str, optional: bool
) -> list[Blank]:
    """The fields of a setting that has some of its own: which kind it is, and its parts.

    Of other kinds than the present one, the parts are its class's to fill in.
    """
    held = value if isinstance(value, BaseModel) else None
    present = type(held) if held is not None else kinds[0]
    about = (present.__doc__ or "").strip().partition("\n")[0]
    told = told or about
    names = [str(each.model_fields["kind"].default) for each in kinds]
    names += [NONE] if optional else []
    if optional and held is None:
        return [Blank((*path, "kind"), "choice", NONE, told, tuple(names), optional)]
    found = []
    if "kind" in present.model_fields:
        now = str(present.model_fields["kind"].default)
        found.append(Blank((*path, "kind"), "choice", now, told, tuple(names), optional))
    for name, info in present.model_fields.items():
        if name != "kind":
            own = info.get_default(call_default_factory=True)
            mine = own if held is None else getattr(held, name)
            parts = _list_field((*path, name), info, mine)
            found += [
                part if part.description else replace(part, description=about) for part in parts
            ]
    return found


def _read(field: Blank, answer: bool | str | float | None) -> Any:
    """An answer, as pydantic takes it."""
    if field.kind == "switch":
        return bool(answer)
    text = "" if answer is None else str(answer).strip()
    if field.optional and text.lower() in ("", NONE):
        return None
    if field.kind == "list":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if field.kind == "weights":
        return dict(_read_pair(field, part) for part in text.split(",") if part.strip())
    return text


def _read_pair(field: Blank, text: str) -> tuple[str, str]:
    name, equals, number = text.rpartition("=")
    if not equals:
        name, number = text, "1"
    if not name.strip() and text.strip() and equals == "":
        raise UserError(f"{text!r} is no name with a number", "write NAME=NUMBER", field.path[0])
    return name.strip(), number.strip()


def _write(value: Any) -> str:
    """A value as it is written in its field."""
    if value is None:
        return NONE
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return json.dumps(value) if isinstance(value, float) else str(value)


def _bounds(info: FieldInfo) -> str:
    """The least and the most that a number may be, in words."""
    words = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
    said = [
        f"{words[type(mark)]} {next(iter(vars_of(mark).values())):g}"
        for mark in info.metadata
        if type(mark) in words
    ]
    return f" ({', '.join(said)})" if said else ""


def vars_of(mark: Any) -> dict[str, float]:
    """What a bound of a field says."""
    return {name: getattr(mark, name) for name in ("ge", "gt", "le", "lt") if hasattr(mark, name)}


def _find_nested(annotation: Any) -> list[type[BaseModel]]:
    """The specs that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [model for part in get_args(annotation) for model in _find_nested(part)]
    return []


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """A type without its extras, and whether None is one of its values."""
    if get_origin(annotation) is Annotated:
        return _unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        others = [part for part in get_args(annotation) if part is not NoneType]
        optional = len(others) < len(get_args(annotation))
        if len(others) == 1:
            return _unwrap(others[0])[0], optional
        return annotation, optional
    return annotation, False
