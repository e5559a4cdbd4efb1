"""Files of tensors that people bring. What is read is tensors and nothing that could run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.specs import expand

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


class _Bag:
    """Stands for a torch module in a pickle: it keeps what was in it, and does nothing."""


def find_file(path: str | Path, names: Sequence[str], what: str, field: str) -> Path:
    """The file that is meant by a path.

    Args:
        path: A file, or a folder that has one.
        names: What the file is called in a folder, without its suffix.
        what: What it holds, in words, for messages.
        field: The setting that names it.

    Raises:
        UserError: There is none, or a folder has several.
    """
    path = expand(path)
    if path.is_dir():
        named = [path / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
        found = [file for file in named if file.is_file()][:1]
        found = found or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            count = "several files" if found else "no file"
            raise UserError(
                f"the folder {path} has {count} that could be {what}", "name the file", field
            )
        return found[0]
    if not path.is_file():
        raise UserError(f"there is no file {path}", f"name {what}", field)
    return path


def read_tensors(path: Path, what: str, field: str) -> Any:
    """What a file holds: tensors by their names, or as they were pickled.

    Of a pickle only tensors are read, and the boxes that they lie in; its code is never run.

    Args:
        path: The file.
        what: What it should hold, in words, for messages.
        field: The setting that names it.

    Raises:
        UserError: It cannot be read, or holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        boxes: list[Any] = [
            (_Bag, "torch.nn.modules.container.ParameterDict"),
            (set, "__builtin__.set"),
        ]
        with torch.serialization.safe_globals(boxes), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's age
            return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        cause = f"{path} cannot be loaded as {what} (it is damaged, or no safetensors file)"
        raise UserError(cause, f"fetch it again, or name {what}", field) from error
    except pickle.UnpicklingError as error:
        cause = f"{path} cannot be loaded as {what} (it is no file of tensors)"
        if _read_start(path) in (b"PK", b"\x80\x02"):  # it is a pickle
            cause = f"{path} is not loaded: it holds more than tensors, which could run code"
        raise UserError(cause, f"name {what}, best as .safetensors", field) from error
    except Exception as error:  # torch raises many kinds
        cause = f"{path} cannot be loaded as {what} (it is damaged, or no file of tensors)"
        raise UserError(cause, f"fetch it again, or name {what}", field) from error


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def open_box(value: Any) -> Any:
    """The tensors in what `read_tensors` found for a ParameterDict; anything else stays."""
    if not isinstance(value, _Bag):
        return value
    parts = vars(value)
    found = parts.get("_parameters") or parts.get("_modules") or {}
    return dict(found) or {name: part for name, part in parts.items() if isinstance(part, Tensor)}


def require_finite(path: Path, tensors: Sequence[Tensor], field: str) -> None:
    """Raise UserError if a file's tensors hold what is not a number, or no numbers at all."""
    if any(tensor.is_meta or tensor.layout != torch.strided for tensor in tensors):
        cause = f"{path} holds tensors that are sparse or empty shells"
        raise UserError(cause, "fetch it again, or save it as plain tensors", field)
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        cause = f"{path} holds numbers that are infinite or not numbers at all"
        raise UserError(cause, "fetch it again, or train it anew", field)
