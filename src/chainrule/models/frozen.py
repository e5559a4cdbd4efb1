"""Copies of pipelines and networks that share their weights, frozen."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from chainrule.errors import UserError


def copy_frozen_pipeline(pipeline: Any) -> Any:
    """A copy of a pipeline that shares its weights, frozen and in evaluation mode.

    The original stays as it is.

    Raises:
        UserError: A part of it moves between devices as it is used.
    """
    view = copy.copy(pipeline)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            devices = set((getattr(part, "hf_device_map", None) or {}).values())
            if hasattr(part, "_hf_hook") or len(devices) > 1:
                raise UserError(
                    f"the pipeline's {name} is moved between devices as it is used, "
                    "which a gradient cannot follow",
                    "switch offloading off (pipeline.remove_all_hooks()) "
                    "and move the pipeline to one device",
                    "model",
                )
            setattr(view, name, copy_frozen(part))
    return view


def copy_frozen(module: nn.Module) -> nn.Module:
    """A copy of a network that shares its weights and buffers, frozen and in evaluation mode."""
    shared: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False)
        for weight in module.parameters()
    }
    shared |= {id(buffer): buffer for buffer in module.buffers()}
    return copy.deepcopy(module, shared).eval()
