"""Options made from the schema: a field of a spec is an option, typed once, described once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperGroup

from chainrule.cli._settings import Typed, is_switch
from chainrule.runs.spec import Checkpoint, Inputs, RunSpec

NAMES = {"source": "--from", "mask": "--mask", "prompt": "--prompt"}
"""Options that are not called like their fields."""
SHORT = {"model": "-m", "output": "-o"}
SETTINGS = "chainrule.settings"
"""Where what was typed for methods and losses is kept until the command reads it."""


class _Flags:
    """Of a command's help: what takes no value is shown without the type of one."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
        return params


class Group(_Flags, TyperGroup):
    """The whole program."""


class Command(_Flags, TyperCommand):
    """A command of it."""


class SettingsCommand(Command):
    """A command that keeps `--NAME VALUE` of settings that it does not know itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {name for param in self.params for name in param.opts} | {"--help"}
        rest, settings = split_settings(args, known)
        ctx.meta[SETTINGS] = settings
        return super().parse_args(ctx, rest)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[--SETTING VALUE ...]"]


def split_settings(args: Sequence[str], known: set[str]) -> tuple[list[str], list[Typed]]:
    """Arguments without the settings, and the settings.

    >>> split_settings(["a.png", "--strength", "0.6", "--seed", "1"], {"--seed"})
    (['a.png', '--seed', '1'], [('strength', '0.6')])
    """
    rest: list[str] = []
    settings: list[Typed] = []
    queue = list(args)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *queue]
            break
        if not word.startswith("--") or name in known:
            rest.append(word)
            continue
        key = name[2:].replace("-", "_")
        if equals:
            settings.append((key, value))
        elif not queue or _is_option(queue[0]) or _is_alone(key, queue[0]):
            settings.append((key, None))
        else:
            settings.append((key, queue.pop(0)))
    return rest, settings


def _is_option(word: str) -> bool:
    """Whether a word is an option, and not a value such as -1.5."""
    return word.startswith("-") and not re.fullmatch(r"-[\d.].*", word)


def _is_alone(key: str, after: str) -> bool:
    """Whether a setting is a switch, and what comes `after` it is not its value."""
    return is_switch(key) and after.lower() not in ("true", "false")


@dataclass(frozen=True)
class Option:
    """A parameter of a command.

    Args:
        name: In Python.
        kind: Its type, as typer takes it.
        info: typer's own description.
        default: What it is if it is not typed.
    """

    name: str
    kind: Any
    info: Any
    default: Any = None

    @property
    def parameter(self) -> inspect.Parameter:
        """As a parameter of a function."""
        annotation = typer_annotation(self.kind, self.info)
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, keyword, default=self.default, annotation=annotation)


def typer_annotation(kind: Any, info: Any) -> Any:
    """`Annotated[kind, info]`."""
    from typing import Annotated

    return Annotated[kind, info]


def from_field(spec: Any, name: str, **changes: Any) -> Option:
    """The option of a spec's field.

    Args:
        spec: The class.
        name: The field's.
        changes: typer's settings that differ.
    """
    info: FieldInfo = spec.model_fields[name]
    flags = [
        NAMES.get(name, f"--{name.replace('_', '-')}"),
        *([SHORT[name]] if name in SHORT else []),
    ]
    if info.annotation is bool:
        flags = flags[:1]
        return Option(name, bool, typer.Option(*flags, help=info.description, **changes), False)
    kind: Any = list[str] if _is_list(info.annotation) else str
    settings = {"help": _describe(info), "metavar": name.upper().replace("_", "-")} | changes
    return Option(name, kind | None, typer.Option(*flags, **settings))


def argument(spec: Any, name: str, *, several: bool = False, optional: bool = False) -> Option:
    """A field as a positional argument."""
    info: FieldInfo = spec.model_fields[name]
    kind: Any = list[str] if several else str
    default: Any = None if optional else ...
    found = typer.Argument(help=_describe(info), metavar=name.upper(), show_default=False)
    return Option(name, kind | None if optional else kind, found, default)


def _is_list(annotation: Any) -> bool:
    """Whether an option may be given several times: lists of files and words, not of numbers."""
    inner = getattr(annotation, "__origin__", None)
    parts = [getattr(part, "__origin__", part) for part in get_args(annotation)]
    return inner is tuple and int not in parts


def _describe(info: FieldInfo) -> str:
    """A field's description, with its default where that says something."""
    default = info.default
    plain = isinstance(default, (int, float, str)) and not isinstance(default, bool)
    shown = f" [{default}]" if plain and default != "" else ""
    return f"{info.description}{shown}"


def make_command(
    name: str, doc: str, options: Sequence[Option], body: Callable[..., None]
) -> Callable[..., None]:
    """A function that typer makes a command of.

    Args:
        name: The command's.
        doc: What it does, in a sentence.
        options: What it takes.
        body: Called with the context and what was typed, by name.
    """

    def command(ctx: typer.Context, **values: Any) -> None:
        body(ctx.meta.get(SETTINGS, []), values)

    first = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    parameters = [first, *(option.parameter for option in options)]
    command.__name__, command.__doc__ = name, doc
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


CHECKPOINT = [
    from_field(Checkpoint, name, rich_help_panel="The checkpoint")
    for name in Checkpoint.model_fields
]
"""What every command that loads a model takes."""
MEMORY = from_field(RunSpec, "memory")
OUTPUT = Option(
    "output",
    Path | None,
    typer.Option("-o", "--output", help="The run's folder; a new one in runs/."),
)
QUIET = Option("quiet", bool, typer.Option("-q", "--quiet", help="Print the result only."), False)
JSON = Option("json", bool, typer.Option("--json", help="Print the report as JSON."), False)


def pick_inputs(*names: str) -> list[Option]:
    """The options of some inputs."""
    return [from_field(Inputs, name) for name in names]


def take(values: Mapping[str, Any], spec: Any) -> dict[str, Any]:
    """Of what was typed, what belongs to a spec."""
    named = {name: values.get(name) for name in spec.model_fields}
    return {name: value for name, value in named.items() if value not in (None, (), [])}
