"""Memory: how much of it tensors take, and what it means to run out of it."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from chainrule.errors import UserError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS |= {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}

MOST_AMOUNT = 1e15
"""No number before a unit is larger: it would be a slip."""


def parse_bytes(text: str) -> int:
    """A number of bytes as people write it.

    >>> parse_bytes("8GB"), parse_bytes("512 MiB"), parse_bytes("1.5G")
    (8000000000, 536870912, 1500000000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not match or match[2] not in UNITS or not 0 < float(match[1]) < MOST_AMOUNT:
        raise UserError(f"{text!r} is not an amount of memory", "write, for example, 8GB or 512MiB")
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


def distinct_modules(*groups: Iterable[nn.Module]) -> list[nn.Module]:
    """Every network of some groups, each once."""
    return list({id(module): module for group in groups for module in group}.values())


def count_bytes(networks: Iterable[nn.Module]) -> int:
    """What the weights and buffers of `networks` take; storages that they share count once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
    }
    return sum(storages.values())


@contextmanager
def told_out_of_memory() -> Iterator[None]:
    """While this lasts, memory that runs out is an error that a user can cure."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "there is not enough memory", "choose a smaller size, or fewer seeds"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


class Peak:
    """Bytes above what lived when it was made: those that live, and the most that did.

    The most is kept for each phase (`begin_phase`), because phases grow in different ways.
    """

    def __init__(self) -> None:
        self.phase = "whole"
        self.phases: dict[str, int] = {}

    @property
    def live(self) -> int:
        """The bytes that live now."""
        raise NotImplementedError

    @property
    def peak(self) -> int:
        """The most that lived at once since the last `restart`."""
        raise NotImplementedError

    def restart(self) -> None:
        """Forget the peak."""
        raise NotImplementedError

    def begin(self, phase: str) -> None:
        """End the phase that was, and begin another."""
        self.phases[self.phase] = max(self.peak, self.phases.get(self.phase, 0))
        self.phase = phase
        self.restart()


_METER: ContextVar[Peak | None] = ContextVar("meter", default=None)


def begin_phase(name: str) -> None:
    """What comes now is measured as a phase of its own, if anything is being measured."""
    meter = _METER.get()
    if meter is not None:
        meter.begin(name)


@contextmanager
def measure_memory(device: torch.device) -> Iterator[Peak]:
    """Measures the tensors that are made inside it.

    On a GPU its allocator counts, elsewhere each operation is watched.
    """
    with _Cuda(device) if device.type == "cuda" else LiveBytes() as found:
        token = _METER.set(found)
        try:
            yield found
        finally:
            found.begin("after")
            _METER.reset(token)


class _Cuda(Peak):
    """CUDA's own count."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
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
    def live(self) -> int:
        return torch.cuda.memory_allocated(self.device) - self.base

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) - self.base


class LiveBytes(TorchDispatchMode, Peak):
    """Counts the bytes of the tensor storages that operations make inside it, while they live.

    What an operation allocates and frees within itself is not seen.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        Peak.__init__(self)
        self._live = self._peak = 0
        self._known: dict[int, bool] = {}  # by address: whether it was made here, or given

    @property
    def live(self) -> int:
        return self._live

    @property
    def peak(self) -> int:
        return self._peak

    def restart(self) -> None:
        self._peak = self._live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._meet((args, kwargs), made=False)
        out = func(*args, **(kwargs or {}))
        self._meet(out, made=True)
        return out

    def _meet(self, values: Any, *, made: bool) -> None:
        for value in tree_iter(values):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage(), made=made)

    def _count(self, storage: torch.UntypedStorage, *, made: bool) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if made else 0
        self._known[key] = made
        self._live += size
        self._peak = max(self._peak, self._live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self._live -= size
