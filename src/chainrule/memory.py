"""Memory: how much of it tensors take, and what it means to run out of it."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from chainrule.errors import UserError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(text: str) -> int:
    """A number of bytes as people write it.

    >>> parse_bytes("8GB"), parse_bytes("512 MiB"), parse_bytes("1.5G")
    (8000000000, 536870912, 1500000000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not match or match[2] not in UNITS or not float(match[1]):
        raise UserError(f"{text!r} is no amount of memory: write, for example, 8GB or 512MiB")
    return int(float(match[1]) * UNITS[match[2]])


def format_bytes(count: float) -> str:
    """A number of bytes for people.

    >>> format_bytes(31_500_000), format_bytes(8.2e9)
    ('31.5 MB', '8.2 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


ELSEWHERE = {"torch", "numpy", "PIL", "transformers", "diffusers", "tokenizers", "builtins"}
"""Where no object holds a network that is not itself one."""


def modules(*owners: Any) -> list[nn.Module]:
    """Every outermost network that objects hold, in what they are made of, at any depth: each once."""
    found: dict[int, nn.Module] = {}
    seen: dict[int, Any] = {}  # with the objects: the number of one that is gone may be another's

    def visit(value: Any) -> None:
        if id(value) in seen or isinstance(value, (str, bytes, int, float, Tensor, type)):
            return
        seen[id(value)] = value
        if isinstance(value, nn.Module):
            found[id(value)] = value
        elif isinstance(value, dict):
            for part in value.values():
                visit(part)
        elif isinstance(value, (list, tuple)):
            for part in value:
                visit(part)
        elif isinstance(value, FunctionType):
            visit([cell.cell_contents for cell in value.__closure__ or ()])
        elif isinstance(value, MethodType):
            visit(value.__self__)
        elif isinstance(getattr(value, "components", None), dict):  # a diffusers pipeline
            visit(value.components)
        elif type(value).__module__.split(".")[0] not in ELSEWHERE:
            visit(getattr(value, "__dict__", None))

    for owner in owners:
        visit(owner)
    return list(found.values())


def bytes_of(networks: Iterable[nn.Module]) -> int:
    """What the weights and buffers of `networks` take; storages that they share count once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
    }
    return sum(storages.values())


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


class Peak:
    """Bytes above what lived when it was made: `peak` is the most since the last `restart`, `live` those that live."""

    def __init__(self) -> None:
        self.live = self.peak = 0

    def restart(self) -> None:
        """Forget the peak."""
        self.peak = self.live


@contextmanager
def measured(device: torch.device) -> Iterator[Peak]:
    """Measures the tensors that are made inside it: on a GPU by its allocator, elsewhere by watching each operation."""
    with _Cuda(device) if device.type == "cuda" else LiveBytes() as found:
        yield found


class _Cuda(Peak):
    """CUDA's own count."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.base = torch.cuda.memory_allocated(device)

    def __enter__(self) -> _Cuda:
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def restart(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def live(self) -> int:  # type: ignore[override]
        return torch.cuda.memory_allocated(self.device) - self.base

    @property
    def peak(self) -> int:  # type: ignore[override]
        return torch.cuda.max_memory_allocated(self.device) - self.base


class LiveBytes(TorchDispatchMode, Peak):
    """Counts the bytes of the tensor storages that operations make inside it, while they live.

    What an operation allocates and frees within itself is not seen.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        Peak.__init__(self)
        self._known: dict[int, bool] = {}  # by address: whether it was made here (else, it was given)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_iter((args, kwargs)):
            if isinstance(value, Tensor):
                self._meet(value.untyped_storage(), made=False)
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._meet(value.untyped_storage(), made=True)
        return out

    def _meet(self, storage: torch.UntypedStorage, *, made: bool) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if made else 0
        self._known[key] = made
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.live -= size
