"""The commands that show what there is: methods, models, estimate."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

import typer
from pydantic import BaseModel
from rich.table import Table

from chainrule.cli._ask import make_spec
from chainrule.cli._options import (
    CHECKPOINT,
    MEMORY,
    Option,
    SettingsCommand,
    from_field,
    make_command,
    pick_inputs,
)
from chainrule.cli._settings import Typed, find_nested, find_settings
from chainrule.cli._terminal import plain_errors, print_table
from chainrule.cli.ask import COMMANDS
from chainrule.errors import UserError
from chainrule.memory import format_bytes
from chainrule.methods.base import Method
from chainrule.methods.registry import METHODS
from chainrule.models import installed
from chainrule.runs import Estimate, Inputs, count_passes, ladder, load_model, load_task


def methods(
    name: str | None = typer.Argument(None, help="Say what this one does.", metavar="METHOD"),
) -> None:
    """List the methods, or say what one does, its paper, its limits and its settings."""
    with plain_errors():
        if name is None:
            width = max(map(len, METHODS))
            for kind in METHODS:
                typer.echo(f"{kind:{width}}  {_first_line(METHODS[kind])}")
            typer.echo("\n`chainrule methods METHOD` says what one does, and its settings.")
            return
        method = METHODS[name]
        typer.echo(f"{inspect.getdoc(method)}\n")
        print_table(_tabulate_settings(method))


def models() -> None:
    """List the checkpoints that can be used without a download."""
    for name in installed():
        typer.echo(name)


def _first_line(method: type[Method]) -> str:
    return (inspect.getdoc(method) or "").splitlines()[0]


def _tabulate_settings(method: type[Method]) -> Table:
    """A method's settings, from its schema."""
    table = Table("setting", "default", "what it is", box=None, pad_edge=False)
    for name in find_settings(method):
        if "." not in name and _is_there(method, find_settings(method)[name]):
            default, description = _describe(method, find_settings(method)[name])
            table.add_row(name, default, description)
    return table


def _is_there(method: type[Method], path: tuple[str, ...]) -> bool:
    """Whether a setting is there by default: another optimiser has other ones."""
    default = method.model_fields[path[0]].get_default(call_default_factory=True)
    return len(path) == 1 or default is None or path[1] in type(default).model_fields


def _describe(method: type[Method], path: tuple[str, ...]) -> tuple[str, str]:
    """The default and the description of a setting, or of a setting of a setting."""
    info = method.model_fields[path[0]]
    default: Any = info.get_default(call_default_factory=True)
    if len(path) > 1:
        kinds = [type(default)] if isinstance(default, BaseModel) else []
        kinds += find_nested(info.annotation)
        inner = next(kind.model_fields[path[1]] for kind in kinds if path[1] in kind.model_fields)
        of_default = None if default is None else getattr(default, path[1], inner.default)
        return _write(of_default), f"{path[0]}: {inner.description}"
    if isinstance(default, BaseModel):
        return str(getattr(default, "kind", type(default).__name__)), "How a gradient is followed."
    return _write(default), info.description or ""


def _write(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return "none" if not value else str(value)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _estimate(typed: Sequence[Typed], values: dict[str, Any]) -> None:
    """Print what a run would take."""
    with plain_errors():
        guide = next(command for command in COMMANDS if command.name == "guide")
        if values.get("loss") or not values.get("method"):
            guide.check(values)  # a method that needs no loss can be estimated by its name
        values = {**values, "seed": values.get("seed") or guide.seeds}
        methods = values.get("method") or guide.methods(values)[-1:]
        spec = make_spec(values, typed, methods, preset=guide.preset)
        model, _ = count_passes(load_model(spec.checkpoint))
        limit = spec.memory
        without = spec.model_copy(update={"memory": None})
        order = [label for label, _ in spec.labelled()]
        rows = sorted(
            ladder(without, load_task(without, model)), key=lambda row: order.index(row.label)
        )
        chosen: dict[str, Estimate] = {}
        for row in rows:
            if limit is None or row.peak <= limit:
                chosen.setdefault(row.label, row)
        if values["json"]:
            report = {
                label: [_as_json(row, limit) for row in rows if row.label == label]
                for label in order
            }
            typer.echo(json.dumps({"memory": limit, "methods": report}))
        else:
            print_table(_tabulate_plans(rows, limit))
            typer.echo(LEGEND)
            if limit is not None and chosen:
                fit = [
                    f"{row.label}: {row.plan}, {format_bytes(row.peak)}" for row in chosen.values()
                ]
                typer.echo("\n".join(f"within {format_bytes(limit)}, {way}" for way in fit))
        _require_fit(limit, [label for label in order if label not in chosen])


LEGEND = (
    "Walk, judge and back: activations at their most, above the weights. Evaluations: of "
    "the network on one latent, forwards and backwards, in an iteration of all images."
)
PHASES = ("walk", "judge", "back")


def _tabulate_plans(rows: Sequence[Estimate], limit: int | None) -> Table:
    """The ways, from the fastest to the one of least memory; dim where one does not fit."""
    table = Table("method", "plan")
    for name in ("weights", *PHASES, "peak", "evaluations"):
        table.add_column(name, justify="right")
    for row in rows:
        parts = (row.weights, *(row.phases.get(name, 0) for name in PHASES))
        cells = [format_bytes(part) if part else "" for part in (*parts, row.peak)]
        style = None if limit is None or row.peak <= limit else "dim"
        table.add_row(row.label, str(row.plan), *cells, str(row.passes or ""), style=style)
    return table


def _as_json(row: Estimate, limit: int | None) -> dict[str, Any]:
    """What a way takes, in bytes."""
    return {
        "plan": row.plan.model_dump(),
        "weights": row.weights,
        "phases": dict(row.phases),
        "peak": row.peak,
        "evaluations": row.passes,
        "fits": limit is None or row.peak <= limit,
    }


def _require_fit(limit: int | None, missing: Sequence[str]) -> None:
    """Raise UserError where no plan fits a method."""
    if limit is not None and missing:
        raise UserError(
            f"{format_bytes(limit)} is too little for {', '.join(missing)}",
            "choose a smaller size, a smaller network for the loss, or more memory",
            "memory",
        )


def add_estimate(app: typer.Typer) -> None:
    """Add `estimate`, which takes what `guide` takes."""
    guide = next(command for command in COMMANDS if command.name == "guide")
    doc = (
        "Say what a run of `guide` would take, with --photo one of `edit`, with --pictures one of "
        "`tune`: memory, network evaluations, and which way fits."
    )
    photo = [from_field(Inputs, "photo"), *pick_inputs("source", "pictures")]
    said = typer.Option("--json", help="Print it as JSON: bytes, from the fastest way down.")
    options = [*guide.options, *photo, *CHECKPOINT, MEMORY, Option("json", bool, said, False)]
    app.command(cls=SettingsCommand)(make_command("estimate", doc, options, _estimate))
