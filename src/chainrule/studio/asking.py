"""From what was filled in on a page to a run's spec: the same as the command line makes of words.

What is filled in names no files but those that were uploaded, or are in a run's folder here: a page
can be reached by others than the owner of this machine's files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_origin

from chainrule.errors import UserError
from chainrule.images import read_mask, read_picture
from chainrule.losses.base import LossSpec
from chainrule.losses.registry import LOSSES
from chainrule.methods.registry import METHODS
from chainrule.runs.folder import SPEC
from chainrule.runs.spec import RunSpec, parse_spec
from chainrule.runs.usual import describe_situation
from chainrule.specs import list_files
from chainrule.studio.desk import SAFE, UPLOADS, Desk
from chainrule.studio.forms import Blank, list_fields

BUDGET = "budget"
"""The setting that a time pays for."""


@dataclass(frozen=True)
class AskedLoss:
    """A row of losses.

    Args:
        kind: Which one.
        target: What it asks for, in words or numbers.
        pictures: What it asks for, in pictures.
        weight: What it is multiplied by.
    """

    kind: str
    target: str = ""
    pictures: tuple[Path, ...] = ()
    weight: str = "1"


@dataclass(frozen=True)
class Asked:
    """What was filled in, as texts.

    Args:
        inputs: By the names of `Inputs`; what is empty is left out.
        checkpoint: Likewise, of `Checkpoint`.
        losses: The rows.
        methods: Each by its kind, with the settings of its form.
        memory: The limit; empty: none.
        timed: Whether a time pays for the budgets, so that the forms' are not asked for.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    losses: Sequence[AskedLoss] = ()
    methods: Sequence[tuple[str, Mapping[str, Any]]] = ()
    memory: str = ""
    timed: bool = False

    def with_guidance(self, usual: float | None) -> Asked:
        """The same, with a guidance scale where none was filled in.

        Args:
            usual: It; None: the model's own.
        """
        if usual is None or str(self.inputs.get("guidance_scale") or "").strip():
            return self
        return replace(self, inputs={**self.inputs, "guidance_scale": usual})


def make_spec(asked: Asked, desk: Desk) -> RunSpec:
    """The run that was asked for.

    Args:
        asked: What was filled in.
        desk: Among whose uploads and runs its files may be.

    Raises:
        UserError: Something is missing, is out of range, or names a file from elsewhere.
    """
    if not asked.methods:
        raise UserError("no method was chosen", "choose one or more", "methods")
    spec = parse_spec(
        {
            "checkpoint": _drop_empty(_split(asked.checkpoint, "embedding", "lora")),
            "inputs": _drop_empty(asked.inputs),
            "losses": [read_loss(each) for each in asked.losses if each.kind],
            "methods": [_read_method(kind, values, asked) for kind, values in asked.methods],
            "memory": asked.memory.strip() or None,
        }
    )
    require_own(list_files(spec), desk)
    for photo in filter(None, [spec.inputs.photo]):
        shape = read_picture(photo).shape
        if spec.inputs.mask is not None:
            read_mask(spec.inputs.mask, (shape[-2], shape[-1]))
    for picture in spec.inputs.pictures:
        read_picture(picture)
    return spec


def read_loss(row: AskedLoss) -> dict[str, Any]:
    """A row of losses, as a run's spec has it. Raises UserError if it asks for nothing."""
    kind = LOSSES[row.kind]
    values: dict[str, Any] = {"kind": row.kind, "weight": row.weight.strip() or "1"}
    if takes_pictures(kind):
        if not row.pictures:
            raise UserError(f"the loss {row.kind} compares with a picture", "add one", "target")
        for picture in row.pictures:
            read_picture(picture)
        several = get_origin(kind.model_fields["target"].annotation) is tuple
        paths = [str(picture) for picture in row.pictures]
        return {**values, "target": paths if several else paths[0]}
    if not takes_target(kind):
        return values
    if not row.target.strip():
        raise UserError(f"the loss {row.kind} asks for nothing", f"as in {kind.hint}", "target")
    return {**values, **kind.parse_target(row.target.strip())}


def takes_pictures(kind: type[LossSpec]) -> bool:
    """Whether a loss compares with pictures."""
    return "FILE" in kind.hint


def takes_target(kind: type[LossSpec]) -> bool:
    """Whether a loss is told what to aim at."""
    return "=" in kind.hint


def list_method_fields(
    kind: str,
    preset: str,
    *,
    model: str,
    loss: str,
    photo: bool,
    values: Mapping[str, Any] | None = None,
) -> list[Blank]:
    """The form of a method, as a preset fills it in.

    Args:
        kind: Which method.
        preset: Which preset.
        model: The checkpoint's name.
        loss: The kind of the first loss; empty: there is none.
        photo: Whether a photo is edited.
        values: What stands there instead: those of an earlier run.
    """
    method = METHODS[kind]
    situation = describe_situation(
        preset or None, model=model.strip() or None, loss=loss or None, photo=photo
    )
    idle = method.from_noise if photo else method.with_photo
    fields = list_fields(method, values or method.preset(situation))
    return [each for each in fields if each.path[0] not in idle]


def require_own(files: Sequence[Path], desk: Desk) -> None:
    """Raise UserError for a file that was not uploaded, and is of no run here.

    Args:
        files: What is to be read.
        desk: Whose uploads and runs.
    """
    uploads, runs = (place.resolve() for place in (desk.side(UPLOADS), desk.folder))
    for file in files:
        real = file.resolve()
        run = real.relative_to(runs).parts[0] if real.is_relative_to(runs) else ""
        of_run = SAFE.fullmatch(run) and (runs / run / SPEC).is_file()
        if not real.is_relative_to(uploads) and not of_run:
            raise UserError(
                f"{file.name[:80]} was not uploaded here", "upload it, instead of naming its path"
            )


def name_run(spec: RunSpec) -> str:
    """What a run's name begins with: what it is about."""
    inputs = spec.inputs
    what = inputs.prompt[0] or (inputs.photo.stem if inputs.photo else inputs.source)
    return "-".join(re.findall(r"[a-z0-9]+", what.lower())[:6]) or spec.methods[-1].kind


def _read_method(kind: str, values: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """A method as a run's spec has it; without a budget, if a time pays for it."""
    kept = {name: value for name, value in values.items() if not (asked.timed and name == BUDGET)}
    return {"kind": METHODS[kind].model_fields["kind"].default, **kept}


def _split(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Values of which some are several, chosen or in a line with commas."""
    found = dict(values)
    for name in names:
        given = values.get(name) or ()
        parts = given.split(",") if isinstance(given, str) else given
        found[name] = tuple(part.strip() for part in parts if part.strip())
    return found


def _drop_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was filled in of some fields."""
    return {
        name: value
        for name, value in values.items()
        if value is not None and value != () and not (isinstance(value, str) and not value.strip())
    }
