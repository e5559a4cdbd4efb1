"""Copies of pipelines and networks that share their weights, frozen; and copies elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from chainrule.errors import UserError

T = TypeVar("T")


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


def copy_elsewhere(
    whole: T,
    networks: Sequence[nn.Module],
    device: torch.device,
    dtype: torch.dtype | None,
    careful: Sequence[nn.Module] = (),
) -> T:
    """A copy of something, its networks on a device and in a dtype.

    Weights that are there already are shared; the original stays as it is.

    Args:
        whole: What is copied, whatever it holds.
        networks: The networks in it.
        device: Where they are to be.
        dtype: That of their weights; None: each keeps its own.
        careful: Networks that stay in float32 if `dtype` is float16.
    """
    memo: dict[int, Any] = {}
    for network in networks:
        kept = dtype == torch.float16 and any(network is each for each in careful)
        kind = torch.float32 if kept else dtype
        for name, weight in network.named_parameters():
            moved = weight.detach().to(device, _choose_dtype(network, name, weight, kind))
            memo[id(weight)] = nn.Parameter(moved, requires_grad=weight.requires_grad)
        for name, buffer in network.named_buffers():
            memo[id(buffer)] = buffer.to(device, _choose_dtype(network, name, buffer, kind))
    return copy.deepcopy(whole, memo)


def _choose_dtype(network: Any, name: str, value: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of a weight where its network is to have one."""
    if dtype is None or not value.is_floating_point():
        return value.dtype
    kept = getattr(network, "_keep_in_fp32_modules", None) or ()
    half = dtype == torch.float16 and any(part in name.split(".") for part in kept)
    return torch.float32 if half else dtype


def relocate(part: T, device: torch.device) -> T:
    """Something that remembers where it is, told that it is elsewhere.

    Args:
        part: A dataclass; its fields that are devices are changed. Anything else stays.
        device: Where it is now.
    """
    if not is_dataclass(part) or isinstance(part, type):
        return part
    values = {each.name: getattr(part, each.name) for each in fields(part)}
    places = [name for name, value in values.items() if isinstance(value, torch.device)]
    return replace(part, **dict.fromkeys(places, device)) if places else part
