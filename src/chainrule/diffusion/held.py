"""The tensors that something holds, wherever it holds them, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import chain
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import torch
from torch import Tensor, nn

_EMPTY = (
    str, bytes, int, float, complex, type(None), type, ModuleType, BuiltinFunctionType,
    torch.dtype, torch.device, torch.Generator,
)  # fmt: skip
"""What holds no tensors."""

_OTHERS = {"diffusers", "transformers", "tokenizers", "PIL", "numpy"}
"""The packages whose objects are searched only if they are networks: no step reads what a pipeline,
its scheduler and its tokenizer hold, and a user may well run them between two passes."""


def find_tensors(*holders: object) -> dict[str, Tensor]:
    """Every tensor that can be reached from some things.

    Through fields and attributes, tuples, lists and mappings, networks (weights and buffers), and
    what a function is made of: the object whose method it is, what it closes over, what a
    `functools.partial` fills in. Of something with a property `reads` (`Denoiser.reads`), its word
    is taken.

    Args:
        holders: What is searched, itself and not by its `reads`.

    Returns:
        Each tensor once, by a name that a user knows it by: "conditioning 0", "constraint.mask",
        of a network's weight "mid_block.conv.weight".
    """
    found: dict[str, Tensor] = {}
    seen: dict[int, object] = {}  # the objects are kept: an id is another's once it is gone
    todo = [("", holder) for holder in reversed(holders)]
    while todo:
        name, value = todo.pop()
        if id(value) in seen or isinstance(value, _EMPTY):
            continue
        seen[id(value)] = value
        if isinstance(value, Tensor):
            found[name if name not in found else f"{name} ({len(found)})"] = value
        else:
            declared = None if any(value is one for one in holders) else _declared(value)
            parts = list(_parts(name, value) if declared is None else declared.items())
            todo.extend(reversed(parts))
    return found


def _declared(value: object) -> Mapping[str, Tensor] | None:
    own = isinstance(getattr(type(value), "reads", None), property)
    return value.reads if own else None  # type: ignore[attr-defined]


def _parts(name: str, value: object) -> Iterator[tuple[str, object]]:
    """What `value` is made of, by name."""
    if isinstance(value, nn.Module):
        for prefix, module in value.named_modules():
            yield from ((f"{prefix}.{key}".lstrip("."), each) for key, each in _own(module))
    elif isinstance(value, Mapping):
        yield from ((_join(name, str(key)), each) for key, each in value.items())
    elif isinstance(value, (tuple, list, set, frozenset)):
        yield from ((f"{name} {i}".lstrip(), each) for i, each in enumerate(value))
    elif isinstance(value, partial):
        yield from ((name, each) for each in (value.func, value.args, value.keywords))
    elif isinstance(value, MethodType):
        yield name, value.__self__
    elif isinstance(value, FunctionType):
        yield from _closed_over(value)
    elif type(value).__module__.split(".")[0] in _OTHERS:
        return
    elif hasattr(value, "__dict__"):
        yield from ((_join(name, key), each) for key, each in vars(value).items())
    elif is_dataclass(value):  # one with slots
        yield from ((_join(name, each.name), getattr(value, each.name)) for each in fields(value))


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's weights, buffers and plain attributes that are tensors, not those of its parts."""
    each = chain(module._parameters.items(), module._buffers.items(), vars(module).items())
    return ((key, value) for key, value in each if isinstance(value, Tensor))


def _closed_over(function: FunctionType) -> Iterator[tuple[str, object]]:
    """What a function has from where it was defined."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a name that nothing was given to yet
            yield name, cell.cell_contents


def _join(name: str, part: str) -> str:
    """A part's name; that a denoiser is inside another is nothing to tell."""
    return part if name in ("", "denoiser") else f"{name}.{part}"
