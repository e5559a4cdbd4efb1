"""What the benchmarks share: tables that go to docs/results.md, and a count of live tensor bytes."""

from __future__ import annotations

import os
import platform
import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

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


class Passes:
    """Counts the images that go through a network, forwards and backwards: two make a pass of a guidance pair."""

    def __init__(self, model: Model) -> None:
        self.images = 0
        model.network.module.register_forward_hook(self._forwards)  # type: ignore[attr-defined]

    def _forwards(self, module: object, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
        self.images += len(inputs[0])
        if output[0].requires_grad:
            output[0].register_hook(self._backwards)

    def _backwards(self, gradient: torch.Tensor) -> None:
        self.images += len(gradient)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensor storages made inside it: `peak` is the most that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
