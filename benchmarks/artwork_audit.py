"""An audit of the classifier that guides real artwork, by the judge."""

from __future__ import annotations

import json
import time
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from artwork_world import Asked, Report, draw_sheet
from audit import count_misled, search
from base import shorten, table
from chainrule.errors import UserError
from chainrule.losses import load_classifier
from chainrule.methods import Audit, AuditTask

THINGS = ("fox", "pizza", "rocket", "cactus", "crown", "camera")
GROUNDS = ("white", "blue")
PROMPTS = tuple(f"a {thing} on a {ground} background" for thing in THINGS for ground in GROUNDS)
SHOWN = 6
"""How many of those that were misled are on the sheet."""


def audit(task: AuditTask, method: Audit, path: Path) -> None:
    """Audit, and write what is found."""
    began = time.perf_counter()
    state = search(task, method)
    misled = torch.nonzero(state.level < len(method.radii)).squeeze(1)[:SHOWN]
    rows = [[str(cell) for cell in row] for row in count_misled(task, method, state)]
    labels = task.classifier.labels
    found = {
        "rows": rows,
        "read alike": int((state.label >= 0).sum()),
        "names": [f"{labels[int(state.label[i])]} > {labels[int(state.seen[i])]}" for i in misled],
        "seconds": time.perf_counter() - began,
    }
    pictures: dict[str, Tensor] = {}
    if len(misled):
        pictures = dict(zip(("before", "after"), method.compare(task, state, misled), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_ = path.with_suffix(".part")
    kept = {name: images.contiguous().cpu() for name, images in pictures.items()}
    save_file(kept, partial_, metadata={"found": json.dumps(found)})
    partial_.replace(path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What was found, and pictures of it."""
    with safe_open(path, "pt") as file:
        found = json.loads((file.metadata() or {})["found"])
        return found, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def make_report(asked: Asked) -> Report:
    world = asked.world
    number, each = asked.share(len(PROMPTS))
    prompts = PROMPTS[:number]
    method = Audit(tau=(0.1, 0.3, 1.0), batch=asked.batch)
    method = shorten(method) if asked.toy else method
    made_by = f"{method.model_dump_json(exclude={'batch'})} {number} {each}"
    weights = (world.weights / "pipeline" / "unet").glob("*.safetensors")
    key = zlib.crc32(made_by.encode() + b"".join(map(Path.read_bytes, weights)))
    path = asked.folder / f"audit {key:08x}.safetensors"
    about = (
        "## An audit of the classifier that guides real artwork\n\n"
        f"{asked.command} {number} prompts ({', '.join(prompts)}), "
        f"{each} seeds from 0. "
    )
    if not path.exists() and (asked.only is None or "audit".startswith(tuple(asked.only))):
        classifier, judge = (
            load_classifier(world.weights / name, world.model.device, role=role)
            for name, role in (("classifier", "classifier"), ("judge", "judge"))
        )
        task = AuditTask(world.model, prompts, tuple(range(each)), classifier, judge)
        try:
            audit(task, method, path)
        except UserError as error:  # networks that were not trained agree on nothing
            return Report(f"{about}Nothing could be audited: {error}.", _draw_nothing)
    if not path.exists():
        return Report(f"{about}It has not been made.", _draw_nothing)
    found, pictures = read(path)
    text = [
        f"{about}Classifier and judge read {found['read alike']} of {number * each} images alike; "
        "within a ball of radius tau around their noise (infinity norm), "
        f"{method.iterations} iterations for each radius: how often the classifier sees another "
        "class while the judge, which no method sees, still sees the first; 95 % intervals. Beside "
        f"it as many uniform draws from the same balls. {found['seconds']:.0f} s in all.",
        table(["class", "images", *(f"tau {tau:g}" for tau in method.radii)], found["rows"]),
        f"Order, by the share misled at tau {method.radii[-1]:g}: "
        + "; ".join(f"{name.strip('*')} {cells[-1].split()[0]}" for name, *cells in _sort(found))
        + ".",
    ]
    return Report("\n\n".join(text), partial(_draw, found["names"], pictures))


def _sort(found: dict[str, Any]) -> list[list[str]]:
    """The rows of all images, searched and at random, the more misled first."""
    return sorted(found["rows"][-2:], key=lambda row: -float(row[-1].split()[0]))


def _draw(names: list[str], pictures: dict[str, Tensor]) -> Image.Image:
    return draw_sheet("What the classifier saw, and sees now", names, pictures, {})


def _draw_nothing() -> Image.Image:
    return draw_sheet("", [], {}, {})
