"""Gradients by name; other packages add theirs through the entry points `chainrule.gradients`."""

from __future__ import annotations

from collections.abc import Callable

from chainrule.diffusion.gradient.adjoint import Adjoint
from chainrule.diffusion.gradient.backprop import Backprop
from chainrule.diffusion.gradient.base import Gradient
from chainrule.diffusion.gradient.checkpoint import Checkpoint
from chainrule.diffusion.gradient.reversible import Reversible
from chainrule.diffusion.gradient.truncated import Truncated
from chainrule.specs import Registry

GRADIENTS: Registry[Callable[[], Gradient]] = Registry(
    "chainrule.gradients",
    "gradient",
    {
        "backprop": Backprop,
        "checkpoint": Checkpoint,
        "reversible": Reversible,
        "adjoint": Adjoint,
        "truncated": Truncated,
    },
)
"""What makes the gradient of each name."""
