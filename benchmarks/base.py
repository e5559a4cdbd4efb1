"""What the benchmarks share: their options, their toy sizes, and the tables of docs/results.md."""

from __future__ import annotations

import argparse
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from chainrule.bundled import SCENES
from chainrule.methods import Method, Situation

RESULTS = Path(__file__).parents[1] / "docs" / "results.md"
PICTURES = RESULTS.parent / "images"
TOY = {
    "steps": 2,
    "final_steps": 3,
    "iterations": 1,
    "prior_images": 2,
    "epochs": 1,
    "start_of": 2,
    "count": 2,
    "repeats": 2,
    "noises": 2,
    "crops": 2,
}
"""The most that a setting of a method is at toy size."""

AnyMethod = TypeVar("AnyMethod", bound=Method)


class Options(argparse.ArgumentParser):
    """The options of a benchmark. All have `--dry` and `--toy`."""

    def __init__(self, about: str | None) -> None:
        super().__init__(description=about)
        self.toy: dict[str, object] = {}
        self.add_argument("--dry", action="store_true", help="print the tables, publish nothing")
        self.add_argument("--toy", action="store_true", help="as --dry, at a size of seconds")

    def add(self, name: str, *, toy: object, **settings: Any) -> None:
        """Add an option that is another one at toy size.

        Args:
            name: Its name, as in "--seeds".
            toy: What it is at toy size, if nothing else is asked for.
            settings: As `add_argument` takes them.
        """
        self.toy[self.add_argument(name, **settings).dest] = toy

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """What is asked for; at toy size nothing is published."""
        arguments = self.parse_args(argv)
        if arguments.toy:
            self.set_defaults(**self.toy)
            arguments = self.parse_args(argv)
            arguments.dry = True
        return arguments


def shorten_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings at toy size: those that `TOY` names, and those of methods among them."""
    return {name: _shorten_value(name, value) for name, value in settings.items()}


def _shorten_value(name: str, value: Any) -> Any:
    if isinstance(value, Method):
        return shorten(value)
    return min(value, TOY[name]) if name in TOY and value is not None else value


def shorten(method: AnyMethod) -> AnyMethod:
    """A method at toy size."""
    return method.model_copy(update=shorten_settings(dict(method)))


def use_preset(
    kind: type[AnyMethod], name: str, loss: str = "classifier", *, photo: bool = False
) -> AnyMethod:
    """A method with the settings of a preset.

    Args:
        kind: The method.
        name: The preset: "faithful", "tuned" or "quick".
        loss: The kind of the loss.
        photo: Whether a photo is edited.
    """
    situation = Situation(name=name, loss=loss, photo=photo, noun=SCENES.noun)
    return kind(**kind.preset(situation))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(name: str, text: str, *, dry: bool) -> None:
    """Print a text and put it in a section of docs/results.md, in place of what was there.

    Args:
        name: The section's.
        text: What it says, as Markdown.
        dry: Only print it.
    """
    print(text)
    if dry:
        return
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    section = f"{start}\n{text}\n{end}"
    if start in page:
        whole = f"{re.escape(start)}.*{re.escape(end)}"
        page = re.sub(whole, lambda _: section, page, flags=re.DOTALL)
    else:
        page = f"{page}\n{section}\n"
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(page)


def publish_picture(name: str, draw: Callable[[], Image.Image], *, dry: bool) -> None:
    """Draw a picture into docs/images, unless nothing is to be published."""
    if not dry:
        draw().save(PICTURES / name, optimize=True)


def machine() -> str:
    """What the numbers were measured on."""
    import diffusers

    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    )


def measure_seconds(
    work: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    """How long some work takes, by a clock."""
    began = clock()
    work()
    return clock() - began
