"""The way into a network: the module behind a denoiser."""

from __future__ import annotations

from typing import Any

import torch

from chainrule.diffusion.denoiser import Conditioned, Denoiser, WrappedDenoiser
from chainrule.errors import UserError


def unwrap(denoiser: Denoiser) -> Conditioned:
    """The network with its conditioning inside a denoiser.

    Raises:
        UserError: If there is something else inside.
    """
    while isinstance(denoiser, WrappedDenoiser):
        denoiser = denoiser.denoiser
    if not isinstance(denoiser, Conditioned):
        raise UserError(
            f"a {type(denoiser).__name__} has no network inside that could be reached",
            "use `model.denoiser`",
        )
    return denoiser


def module(denoiser: Denoiser, *, rebuilt: bool = False) -> Any:
    """The diffusers network that a denoiser asks.

    Args:
        denoiser: What asks it.
        rebuilt: Whether its blocks may be rebuilt on the way back.

    Raises:
        UserError: If it is another network, or if its blocks are to be rebuilt on the way back:
            nothing would reach into them any more.
    """
    found = getattr(unwrap(denoiser).network, "module", None)
    if found is None:
        raise UserError(
            "this network is not a module of diffusers, whose inside could be reached",
            "choose a checkpoint of diffusers",
        )
    rebuilds = torch.is_grad_enabled() and getattr(found, "is_gradient_checkpointing", False)
    if rebuilds and not rebuilt:
        raise UserError(
            "what reaches inside the network cannot be rebuilt with its blocks",
            "use a plan without `gradient_checkpointing`",
            "gradient_checkpointing",
        )
    return found
