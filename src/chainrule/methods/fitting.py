"""Whether a state that a file held is one of this task: what was made by hand may be anything."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from chainrule.errors import UserError

WHOLE = "int"
"""Stands behind a layout whose tensor counts something."""


def require_layout(
    tensors: Mapping[str, Tensor], layout: Mapping[str, str], sizes: Mapping[str, int]
) -> None:
    """Raise UserError for the first tensor that is not of its shape, or not of its kind.

    Args:
        tensors: The tensors, by name.
        layout: For each name the letters (or numbers) of its dimensions, as in "2 B C h w": one
            letter is one size everywhere. "B int" is one of whole numbers, "" a scalar.
        sizes: The letters that are known.
    """
    known = dict(sizes)
    for name, tensor in tensors.items():
        if name not in layout:
            continue
        letters = layout[name].split()
        whole = letters[-1:] == [WHOLE]
        letters = letters[:-1] if whole else letters
        wanted = [int(c) if c.isdecimal() else known.get(c) for c in letters]
        shape = tuple(tensor.shape)
        if len(shape) != len(wanted) or any(
            size not in (None, given) for size, given in zip(wanted, shape, strict=True)
        ):
            said = [str(c if n is None else n) for c, n in zip(letters, wanted, strict=True)]
            raise not_its_own(f"its {name} is of shape {shape}, not ({', '.join(said)})")
        if whole == tensor.is_floating_point() or tensor.is_complex():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise not_its_own(f"its {name} is of {kind} numbers")
        known |= dict(zip(letters, shape, strict=True))


def require_like(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise UserError unless tensors have the names, shapes and kinds of a method's `own`.

    Args:
        tensors: The tensors, by name.
        own: What they should be like.
    """
    missing = sorted(set(own) ^ set(tensors))
    if missing:
        raise not_its_own(f"it lacks, or has too much, {missing[0]!r}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise not_its_own(f"its {name} is {_tell(tensor)}, not {_tell(own[name])}")


def not_its_own(what: str) -> UserError:
    """The error of a state that no iteration of this task can have made.

    Args:
        what: What is wrong with it, as a clause.
    """
    return UserError(f"it is not a state of this task: {what}", "delete it")


def _tell(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
