"""From what was typed to a run's spec."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chainrule.cli._options import take
from chainrule.cli._settings import Typed, apply_settings, choose_losses, choose_methods
from chainrule.errors import UserError
from chainrule.runs.spec import Checkpoint, Inputs, RunSpec, parse_spec
from chainrule.runs.usual import BEST, BEST_METHOD, choose_guidance, describe_situation
from chainrule.specs import expand, make_whole


def make_spec(
    values: Mapping[str, Any], typed: Sequence[Typed], methods: Sequence[str], *, preset: bool
) -> RunSpec:
    """The run that was asked for.

    Args:
        values: What was typed for options.
        typed: What was typed for settings of methods and losses.
        methods: `KIND[:NAME=VALUE,...]` of each method.
        preset: Whether settings come from a preset; if not, they are the methods' defaults.
    """
    inputs = {**take(values, Inputs), **split_mask(values.get("mask"))}
    checkpoint = take(values, Checkpoint)
    losses = choose_losses(values.get("loss") or ())
    edits = bool(inputs.get("photo") or inputs.get("source"))
    situation = None
    if preset:
        _require_best(values, methods)
        named, model = values.get("preset"), checkpoint.get("model")
        kind = losses[0].values["kind"] if losses else None
        situation = describe_situation(named, model=model, loss=kind, photo=edits)
        scale = choose_guidance(named, model=model, photo=edits)
        if scale is not None:
            inputs = {"guidance_scale": scale} | inputs
    chosen = choose_methods(methods, situation, typed)
    apply_settings(typed, [*chosen, *losses])
    return parse_spec(
        {
            "checkpoint": checkpoint,
            "inputs": _absolute(inputs, "photo", "mask", "pictures"),
            "losses": [each.values for each in losses],
            "methods": [{"kind": _kind(each.kind), **each.values} for each in chosen],
            "memory": values.get("memory"),
        }
    )


def _require_best(values: Mapping[str, Any], methods: Sequence[str]) -> None:
    """Refuse the preset `BEST` where nothing is its method."""
    if values.get("preset") != BEST:
        return
    if not any(text.partition(":")[0].strip() == BEST_METHOD for text in methods):
        raise UserError(
            f"the preset best is the method {BEST_METHOD}, and that is not asked for",
            f"name {BEST_METHOD} among the methods, or another preset",
            "preset",
        )


def split_mask(text: str | None) -> dict[str, Any]:
    """A mask as one writes it: a file, `text=WORDS` or `colour=red`.

    >>> split_mask("colour=red"), split_mask(None)
    ({'mask': None, 'mask_colour': 'red'}, {})
    """
    if text is None:
        return {}
    kind, equals, said = text.partition("=")
    if equals and kind in ("text", "colour"):
        return {"mask": None, f"mask_{kind}": said}
    return {"mask": text}


def read_lines(path: Path | None) -> list[str]:
    """The lines of a text file that are not empty; none of no file."""
    if path is None:
        return []
    try:
        text = expand(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as prompts", "name a text file with one in each line"
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def name_folder(output: Path | None, spec: RunSpec) -> Path:
    """The folder that was asked for, or a new one named after the time and what it is about."""
    if output is not None:
        return expand(output)
    photo = spec.inputs.photo
    what = spec.inputs.prompt[0] or (photo.stem if photo else spec.inputs.source)
    slug = "-".join(re.findall(r"[a-z0-9]+", what.lower())[:6])
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}".rstrip("-")


def _kind(method: Any) -> str:
    return str(method.model_fields["kind"].default)


def _absolute(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Files by their whole paths."""

    def whole(path: Any) -> str:
        return str(make_whole(str(path).strip()))

    changed: dict[str, Any] = dict(values)
    for name in names:
        value = values.get(name)
        if value is not None:
            several = isinstance(value, (list, tuple))
            changed[name] = [whole(each) for each in value] if several else whole(value)
    return changed
