"""What is typed for methods and losses: `sdedit:strength=0.6`, `--strength 0.6`, `--clip NAME`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from chainrule.errors import UserError
from chainrule.losses.registry import LOSSES, parse_loss, parse_weight
from chainrule.methods.base import Method, Situation
from chainrule.methods.registry import METHODS
from chainrule.specs import Spec, suggest

Typed = tuple[str, str | None]
"""A setting's name and what was typed for it; None of a switch."""
ELSEWHERE = {
    "sampler": "solver",
    "scheduler": "solver",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "epochs": "iterations",
    "init_image": "photo",
    "width": "size",
    "height": "size",
}
"""What other programs call an option or a setting."""
HIDDEN = {"kind", "weight", "target"}
"""Fields of a loss that are written in the loss itself."""


@dataclass
class Chosen:
    """A method or a loss that was chosen, with the settings that it has.

    Args:
        kind: Its class.
        values: Its settings, to be checked by the class.
        changed: Which of them were typed.
        fixed: The paths of those that were typed for it alone, which go before those for all.
    """

    kind: type[Spec]
    values: dict[str, Any]
    changed: set[str] = field(default_factory=set)
    fixed: set[tuple[str, ...]] = field(default_factory=set)

    def set(self, name: str, text: str | None) -> None:
        """Set what is called `name`, by its path or its last part."""
        path = find_settings(self.kind)[name]
        holder, *rest = path
        if rest:
            nested = dict(_as_dict(self.values.get(holder), self.kind, holder))
            kinds = find_nested(self.kind.model_fields[holder].annotation)
            part = next(
                each.model_fields[rest[0]] for each in kinds if rest[0] in each.model_fields
            )
            nested[rest[0]] = _name_setting(name, _read, part.annotation, text, None)
            self.values[holder] = nested
            return
        annotation = self.kind.model_fields[holder].annotation
        if find_nested(annotation) and text is not None:  # the kind of one that has settings
            self.values[holder] = {"kind": text}
            return
        before = self.values.get(holder) if holder in self.changed else None
        self.values[holder] = _name_setting(name, _read, annotation, text, before)
        self.changed.add(holder)


def _name_setting(name: str, read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` makes of its arguments; what it refuses is said with the setting's name."""
    try:
        return read(*arguments)
    except UserError as error:
        raise UserError(f"{name}: {error.cause}", error.cure) from error


def find_settings(kind: type[Spec]) -> dict[str, tuple[str, ...]]:
    """The names by which the settings of a class are known, and where they are.

    A setting of a setting (an optimiser's rate) is known by its path and, where that is the only
    one of its name, by its last part.
    """
    found: dict[str, tuple[str, ...]] = {}
    short: dict[str, list[tuple[str, ...]]] = {}
    for name, info in kind.model_fields.items():
        if name in (HIDDEN if not issubclass(kind, Method) else {"kind"}):
            continue
        found[name] = (name,)
        for nested in find_nested(info.annotation):
            for part in nested.model_fields:
                path = (name, part)
                found[f"{name}.{part}"] = path
                if path not in short.setdefault(part, []):
                    short[part].append(path)
    for part, paths in short.items():
        if len(paths) == 1 and part not in found and part != "kind":
            found[part] = paths[0]
    return found


def choose_methods(
    texts: Sequence[str], situation: Situation | None, typed: Sequence[Typed] = ()
) -> list[Chosen]:
    """The methods that `KIND[:NAME=VALUE,...]` name, with the settings of a preset.

    Args:
        texts: Each as it was typed.
        situation: The preset, and what it depends on; None: the defaults.
        typed: What was typed for all of them, on which a preset may depend too.
    """
    chosen = []
    for text in texts:
        kind, _, rest = text.partition(":")
        found = METHODS[kind.strip()]
        own = list(_split(rest))
        method = Chosen(found, {})
        if situation is not None:
            told = replace(situation, said=dict([*typed, *own]))
            method = Chosen(found, dict(found.preset(told)))
        for name, value in own:
            if name not in find_settings(found):
                raise UserError(f"{kind} has no setting {name!r}", _list_settings([found], name))
            method.set(name, value)
            method.fixed.add(find_settings(found)[name])
        chosen.append(method)
    return chosen


def choose_losses(texts: Iterable[str]) -> list[Chosen]:
    """The losses that `[WEIGHT*]KIND[=TARGET]` name."""
    parsed = [parse_loss(text) for text in texts]
    return [Chosen(LOSSES[values["kind"]], values) for values in parsed]


def apply_settings(typed: Sequence[Typed], chosen: Sequence[Chosen]) -> None:
    """Give each setting to every chosen method and loss that has it, and no value of its own.

    Raises:
        UserError: If there is none such.
    """
    for name, value in typed:
        holders = [each for each in chosen if name in find_settings(each.kind)]
        own = [each for each in holders if name in each.kind.model_fields]
        # a setting goes before a part of one that is called alike, as an optimiser's `clip`
        if own and len(own) < len(holders) and _is_number(value):
            _refuse_two(name, value, own, [each for each in holders if each not in own])
        holders = own or holders
        if not holders:
            kinds = [each.kind for each in chosen]
            raise UserError(
                f"nothing that was chosen has a setting {name!r}", _list_settings(kinds, name)
            )
        free = [each for each in holders if find_settings(each.kind)[name] not in each.fixed]
        if not free:
            raise UserError(
                f"every chosen method with a setting {name!r} has a value of its own",
                f"omit --{name.replace('_', '-')}, or the value in --method",
                name,
            )
        for each in free:
            each.set(name, value)


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and (text.lower() == "none" or math.isfinite(float(text)))
    except ValueError:
        return False


def _refuse_two(
    name: str, value: str | None, own: Sequence[Chosen], others: Sequence[Chosen]
) -> None:
    """Raise UserError for a number that may be meant for a part of a setting of another thing."""
    kinds = [str(each.kind.model_fields["kind"].default) for each in (*own, *others)]
    path = ".".join(find_settings(others[0].kind)[name])
    raise UserError(
        f"{name} is a setting of {' and of '.join(dict.fromkeys(kinds))}, "
        f"and {value} may be meant for any",
        f"write it where it belongs, as in --method {kinds[len(own)]}:{path}={value}",
    )


def require_known(typed: Sequence[Typed], options: Sequence[str] = ()) -> None:
    """Raise UserError for an option that is nobody's setting: it is a slip of the pen.

    Args:
        typed: What was typed and is no option of the command.
        options: The names of those.
    """
    kinds: list[type[Spec]] = [*METHODS.known.values(), *LOSSES.known.values()]
    for name, _ in typed:
        if not any(name in find_settings(kind) for kind in kinds):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"there is no option or setting {flag}", _guess(name, kinds, options))


def _guess(name: str, kinds: Sequence[type[Spec]], options: Sequence[str]) -> str:
    """Which option was meant, for a message."""
    known = {*options, *(each for kind in kinds for each in find_settings(kind) if "." not in each)}
    near = [ELSEWHERE[name]] if name in ELSEWHERE else get_close_matches(name, known, 3, 0.7)
    if near:
        return f"did you mean {' or '.join('--' + each.replace('_', '-') for each in near)}?"
    return "`--help` lists the command's options, `chainrule methods NAME` a method's settings"


def is_switch(name: str) -> bool:
    """Whether any method has a setting of this name that is on or off."""
    fields_ = (kind.model_fields.get(name) for kind in METHODS.known.values())
    return any(info is not None and info.annotation is bool for info in fields_)


def _list_settings(kinds: Sequence[type[Spec]], name: str) -> str:
    """What there is instead, for a message."""
    known = {each for kind in kinds for each in find_settings(kind) if "." not in each}
    return suggest(name, known, "there are")


def _split(text: str) -> list[tuple[str, str]]:
    """`a=1,b=2,3` as its parts: a comma begins a new one where a name and = follow."""
    parts = re.split(r",(?=\s*[A-Za-z_][\w.-]*\s*=)", text) if text.strip() else []
    pairs = []
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"{part!r} is not a setting", "write NAME=VALUE, as in strength=0.6")
        pairs.append((name.strip().replace("-", "_"), value.strip()))
    return pairs


def find_nested(annotation: Any) -> list[type[BaseModel]]:
    """The specs that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in find_nested(part)]


def _as_dict(value: Any, kind: type[Spec], name: str) -> Mapping[str, Any]:
    """A setting of settings as a dictionary: the value, or the default."""
    value = kind.model_fields[name].default if value is None else value
    return value.model_dump() if isinstance(value, BaseModel) else value


def _read(annotation: Any, text: str | None, before: Any) -> Any:
    """What was typed, as pydantic takes it."""
    annotation, optional = _unwrap(annotation)
    if text is None:
        if annotation is not bool:
            raise UserError("a value is missing", "write it after the name")
        return True
    if optional and text.strip().lower() in ("none", ""):
        return None
    origin = get_origin(annotation)
    if origin in (tuple, list):
        words = [text] if _of_words(annotation) else [part.strip() for part in text.split(",")]
        return (*(before or ()), *words)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {**(before or {}), **_read_pair(text, words=get_args(annotation)[0] is str)}
    return text


def _read_pair(text: str, *, words: bool) -> dict[str, Any]:
    """A name with its number: of words `blue=2`, of networks `0.5*NAME`, or the name alone."""
    name, equals, number = text.rpartition("=")
    if equals and name.strip():
        return {name.strip(): number.strip()}
    if words:
        raise UserError(f"{text!r} is not a word with its number", "write it as in blue=2")
    weight, rest = parse_weight(text)
    return {rest: weight}


def _of_words(annotation: Any) -> bool:
    """Whether a list is one of texts, which may have commas in them."""
    return any(part is str for part in get_args(annotation))


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """A type without its extras, and whether None is one of its values."""
    if get_origin(annotation) is Annotated:
        return _unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        others = [part for part in get_args(annotation) if part is not NoneType]
        inner, _ = _unwrap(others[0])
        return inner, len(others) < len(get_args(annotation))
    return annotation, False
