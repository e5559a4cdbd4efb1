"""From a run that was made to another: the same again, opened in a form, or varied a little."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chainrule.errors import UserError
from chainrule.losses.base import LossSpec
from chainrule.methods.base import Method
from chainrule.methods.variations import START, Variations
from chainrule.runs import Folder, RunSpec
from chainrule.runs.folder import IMAGES
from chainrule.runs.spec import Inputs
from chainrule.specs import Spec
from chainrule.studio.asking import takes_pictures, takes_target
from chainrule.studio.desk import UPLOADS, Desk

VARIED = 4
"""How many variations are drawn."""
Page = Literal["create", "edit", "tune"]


@dataclass(frozen=True)
class Opened:
    """What a run fills a page's form in with.

    Args:
        page: Which page's.
        inputs: The page's own, by the names of `Inputs`.
        model: The checkpoint.
        losses: Each one's kind, aim, pictures and weight.
        methods: Their kinds.
        values: Their settings.
        more: What else there is, by name.
    """

    page: Page
    inputs: Mapping[str, Any]
    model: str
    losses: tuple[tuple[str, str, list[str], str], ...]
    methods: tuple[str, ...]
    values: Mapping[str, Mapping[str, Any]]
    more: Mapping[str, Any]


def make_again(desk: Desk, name: str) -> RunSpec:
    """A run's spec, its files in its folder. Raises UserError if it is none or was damaged."""
    return Folder.open(desk.path(name)).spec


def open_run(desk: Desk, name: str) -> Opened:
    """What a run fills a page's form in with.

    Args:
        desk: The runs.
        name: The run's.

    Raises:
        UserError: It has what no form has.
    """
    spec = make_again(desk, name)
    inputs, checkpoint = spec.inputs, spec.checkpoint
    page: Page = "tune" if inputs.pictures else "edit" if inputs.edits else "create"
    _require_form(spec, page)
    size = "" if checkpoint.size is None else "x".join(map(str, checkpoint.size))
    scale = "" if inputs.guidance_scale is None else str(inputs.guidance_scale)
    return Opened(
        page,
        _open_inputs(desk, inputs),
        checkpoint.model,
        tuple(_open_loss(desk, loss) for loss in spec.losses),
        tuple(method.kind for method in spec.methods),
        {method.kind: _dump(method) for method in spec.methods},
        {
            "seed": ",".join(map(str, inputs.seed)),
            "memory": "" if spec.memory is None else str(spec.memory),
            "negative_prompt": inputs.negative_prompt,
            "guidance_scale": scale,
            "size": size,
            "dtype": checkpoint.dtype,
            "device": checkpoint.device,
            "embedding": list(checkpoint.embedding),
            "lora": list(checkpoint.lora),
        },
    )


def _require_form(spec: RunSpec, page: Page) -> None:
    """Raise UserError for a run with something that its page's form has no field for."""
    inputs, kinds = spec.inputs, [method.kind for method in spec.methods]
    alone = {
        "a method twice": len(set(kinds)) < len(kinds),
        "a loss with settings of its own": any(
            _differs(loss, "kind", "target", "weight") for loss in spec.losses
        ),
        "a variant, or a configuration, of its checkpoint": bool(
            spec.checkpoint.variant or spec.checkpoint.config
        ),
    }
    if page == "tune":
        alone["several methods"] = len(kinds) > 1
        alone["a guidance scale"] = inputs.guidance_scale is not None
        alone["a negative prompt"] = bool(inputs.negative_prompt)
    else:
        alone["several prompts"] = len(inputs.prompt) > 1
    if page == "edit":
        alone["no photo of its own"] = inputs.photo is None
        alone["a painted mask"] = inputs.mask is not None
        alone["pictures of the model's own size"] = inputs.native
    for what, there in alone.items():
        if there:
            raise UserError(
                f"it has {what}, for which the page has no field", "make it again, or begin anew"
            )


def _differs(spec: Spec, *but: str) -> bool:
    """Whether settings are not at their defaults, apart from some."""
    own = {name: info for name, info in type(spec).model_fields.items() if name not in but}
    return any(
        getattr(spec, name) != info.get_default(call_default_factory=True)
        for name, info in own.items()
    )


def _open_inputs(desk: Desk, inputs: Inputs) -> dict[str, Any]:
    """Inputs as the pages have them; files as if they had just been uploaded."""
    return {
        "prompt": "\n".join(inputs.prompt),
        "source": inputs.source,
        "mask_text": inputs.mask_text or "",
        "mask_colour": inputs.mask_colour or "",
        "exact": inputs.exact,
        "photo": None if inputs.photo is None else _copy(desk, inputs.photo),
        "pictures": [_copy(desk, each) for each in inputs.pictures],
    }


def _dump(method: Method) -> dict[str, Any]:
    """A method's settings as JSON has them."""
    values: dict[str, Any] = json.loads(method.model_dump_json(exclude={"kind"}))
    return values


def _open_loss(desk: Desk, loss: LossSpec) -> tuple[str, str, list[str], str]:
    kind, weight = type(loss), str(loss.weight)
    target: Any = getattr(loss, "target", "")
    if takes_pictures(kind):
        several = target if isinstance(target, tuple) else (target,)
        return loss.kind, "", [_copy(desk, Path(each)) for each in several], weight
    said = loss.model_copy(update={"weight": 1.0}).label.partition("=")[2]
    return loss.kind, said if takes_target(kind) else "", [], weight


def _copy(desk: Desk, file: Path) -> str:
    """A run's picture as if it had just been uploaded."""
    place = desk.side(UPLOADS) / secrets.token_hex(8)
    place.mkdir(parents=True)
    return str(shutil.copyfile(file, place / file.name))


def list_results(desk: Desk, name: str) -> list[tuple[str, int]]:
    """The images of a run of which variations can be made: each one's method and seed.

    Args:
        desk: The runs.
        name: The run's.
    """
    folder = Folder.open(desk.path(name))
    found = []
    for label, _ in folder.written.labelled():
        if _has_noise(folder.state_path(label)):
            found += [
                (label, seed)
                for seed in folder.written.inputs.seed
                if (folder.path / IMAGES / folder.image_path(label, seed).name).is_file()
            ]
    return found


def vary(desk: Desk, name: str, label: str, seed: int, apart: float) -> RunSpec:
    """Images from noises near that of a result, with the run's prompt and checkpoint.

    Args:
        desk: The runs.
        name: The run's.
        label: The result's method in it.
        seed: Its seed.
        apart: How far the noises are from it, from 0 (the same) to 1 (any other).

    Raises:
        UserError: There is no such result, or it was not made of noise.
    """
    folder = Folder.open(desk.path(name))
    inputs, methods = folder.spec.inputs, dict(folder.spec.labelled())
    if label not in methods or seed not in inputs.seed:
        raise UserError("there is no such result", "choose one of the list", "result")
    if inputs.edits or inputs.pictures:
        raise UserError("variations are of images that were made of noise", "choose another run")
    steps = int(getattr(methods[label], "steps", Variations.model_fields["steps"].default))
    method = Variations(
        start=folder.state_path(label), row=inputs.seed.index(seed), apart=apart, steps=steps
    )
    drawn = inputs.model_copy(update={"seed": tuple(range(VARIED))})
    return folder.spec.model_copy(
        update={"inputs": drawn, "losses": (), "methods": (method,), "stop_after": {}}
    )


def _has_noise(state: Path) -> bool:
    """Whether a method's state has the noise of its images."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(state, framework="pt", device="cpu") as file:
            return bool(set(file.keys()) & set(START))
    except (OSError, SafetensorError):
        return False
