"""Files of directions of h that were trained (`diffusion.control.Learnt`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chainrule.diffusion.control import Learnt
from chainrule.errors import UserError
from chainrule.models.tensor_files import find_file, read_tensors, require_finite

FIELD = "directions"
TIMES = ("t_edit", "t_boost")


@dataclass(frozen=True, eq=False)
class Saved:
    """A direction, and where in the chain it belongs.

    Args:
        learnt: The direction.
        t_edit: The last time at which h is moved.
        t_boost: The noisiest time from which noise is added; negative: never.
    """

    learnt: Learnt
    t_edit: float
    t_boost: float


def save_direction(path: Path, saved: Saved, change: str) -> None:
    """Write a direction: its tensors, and both times.

    Args:
        path: The safetensors file.
        saved: The direction.
        change: What it was trained for, in words, for people.
    """
    from safetensors.torch import save_file

    times = {name: torch.tensor(getattr(saved, name), dtype=torch.float64) for name in TIMES}
    tensors = {name: value.detach().cpu() for name, value in saved.learnt.values.items()} | times
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, path, metadata={"format": "chainrule direction 1", "change": change})


def read_direction(path: str | Path, h: Tensor) -> Saved:
    """A direction from a file.

    Args:
        path: What `save_direction` wrote.
        h: What the network's block makes of one image, which it should fit.

    Raises:
        UserError: It is something else, or is of another network or size.
    """
    file = find_file(path, ("direction",), "a direction", FIELD)
    tensors = read_tensors(file, "a direction", FIELD)
    if not isinstance(tensors, dict) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise _not_of(file)
    require_finite(file, list(tensors.values()), FIELD)
    times = tensors.get("times")
    if times is not None and (times.ndim != 1 or not len(times)):
        raise _not_of(file)
    own = Learnt.begin(h, times).values
    shapes = {name: value.shape for name, value in own.items()} | dict.fromkeys(TIMES, torch.Size())
    if {name: value.shape for name, value in tensors.items()} != shapes or not all(
        value.is_floating_point() for value in tensors.values()
    ):
        raise _not_of(file)
    values = {name: tensors[name].to(h.device) for name in own}
    return Saved(Learnt(values), *(tensors[name].item() for name in TIMES))


def _not_of(path: Path) -> UserError:
    return UserError(
        f"{path} has no direction that was trained with this model and size",
        "name what asyrp-trained wrote, with its model",
        FIELD,
    )
