"""What every metric asks of what it measures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chainrule.errors import UserError


def check_finite(value: Any, what: str, dimensions: int) -> None:
    """Refuse what cannot be measured.

    Args:
        value: What is measured.
        what: What it is called.
        dimensions: How many it has.

    Raises:
        UserError: It is not a tensor of finite floats with so many dimensions, or is empty.
    """
    if not isinstance(value, Tensor):
        raise UserError(f"{what} are not of type {type(value).__name__}", "give a tensor", what)
    if value.ndim != dimensions or not value.numel():
        shape = ", ".join("BCHW"[:dimensions] if dimensions == 4 else "ND"[:dimensions])
        raise UserError(
            f"{what} of shape {tuple(value.shape)} cannot be measured", f"give ({shape})", what
        )
    if not value.is_floating_point():
        cure = "divide by 255" if value.dtype == torch.uint8 else "cast them, as .float()"
        raise UserError(f"{what} are floats, not {value.dtype}", cure, what)
    if not bool(torch.isfinite(value).all()):
        raise UserError(f"{what} are not finite everywhere", "leave out what is not", what)
