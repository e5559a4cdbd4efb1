"""What the benchmarks share: tables that go to docs/results.md, and counts of network passes."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from chainrule.models import Model

RESULTS = Path(__file__).parents[1] / "docs" / "results.md"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(name: str, text: str) -> None:
    """Print `text` and put it in the section `name` of docs/results.md, in place of what was there."""
    print(text)
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    section = f"{start}\n{text}\n{end}"
    if start in page:
        page = re.sub(f"{re.escape(start)}.*{re.escape(end)}", lambda _: section, page, flags=re.DOTALL)
    else:
        page = f"{page}\n{section}\n"
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(page)


def machine() -> str:
    """What the numbers were measured on."""
    import diffusers

    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"diffusers {diffusers.__version__}"
    )


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The seconds that some work takes."""
    began = clock()
    work()
    return clock() - began


class Passes:
    """Counts the `images` that go through a network, both ways, and `backwards`: two make a pass of a guidance pair."""

    def __init__(self, model: Model) -> None:
        self.images = self.backwards = 0
        self._handle = model.network.module.register_forward_hook(self._forwards)  # type: ignore[attr-defined]

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _forwards(self, module: object, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
        self.images += len(inputs[0])
        if output[0].requires_grad:
            output[0].register_hook(self._backwards)

    def _backwards(self, gradient: torch.Tensor) -> None:
        self.images += len(gradient)
        self.backwards += len(gradient)
