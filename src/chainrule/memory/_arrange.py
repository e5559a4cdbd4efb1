"""Switching and moving networks as a plan has it, and back again."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chainrule.losses.base import Loss
from chainrule.memory.measure import distinct_modules
from chainrule.memory.plan import Plan
from chainrule.models.base import Model

AWAY = torch.device("cpu")


@contextmanager
def arrange(model: Model, loss: Loss | None, plan: Plan) -> Iterator[None]:
    """While this lasts, the networks are switched and moved as a plan has it; then, as before.

    Args:
        model: The checkpoint.
        loss: What judges its images, if anything does.
        plan: What it keeps, rebuilds and moves.
    """
    with ExitStack() as undo:
        backbone, codec = model.network.networks, model.codec.networks
        if plan.gradient_checkpointing:
            for module in distinct_modules(backbone, codec):
                _checkpoint_blocks(module, undo)
        if plan.half or plan.offload:
            gc.collect()  # a pipeline that was loaded and dropped may still hold the same weights
        if plan.half:
            for module in backbone:
                _store_in_bfloat16(module, undo)
        if plan.offload:
            _offload(model, loss, undo)
        yield


def _checkpoint_blocks(module: Any, undo: ExitStack) -> None:
    if not getattr(module, "_supports_gradient_checkpointing", False):
        return
    if module.is_gradient_checkpointing:
        return
    module.enable_gradient_checkpointing()
    undo.callback(module.disable_gradient_checkpointing)


def _store_in_bfloat16(module: nn.Module, undo: ExitStack) -> None:
    """Halve the weights. The whole ones wait in a file: in memory they would save nothing."""
    from safetensors.torch import load_file, save_file

    folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="chainrule-"))
    path = Path(folder) / "weights.safetensors"
    whole = {
        name: value
        for name, value in (*module.named_parameters(), *module.named_buffers())
        if value.is_floating_point() and value.dtype != torch.bfloat16
    }
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in whole.items()}, path
    )

    def restore() -> None:
        for name, value in load_file(path).items():
            whole[name].data = value.to(whole[name].device)

    undo.callback(restore)
    for value in whole.values():
        value.data = value.data.to(torch.bfloat16)


def _offload(model: Model, loss: Loss | None, undo: ExitStack) -> None:
    """Readers of text leave; the codec and the judges come when they are called."""
    backbone = distinct_modules(model.network.networks)
    visitors = distinct_modules(model.codec.networks, () if loss is None else loss.networks)
    readers = [each for each in distinct_modules(model.text.networks) if each not in backbone]
    for module in (*visitors, *readers):
        undo.callback(partial(module.to, find_device(module)))
        module.to(AWAY)
    guests = Guests(model.device)
    for module in backbone:
        undo.callback(module.register_forward_pre_hook(lambda *_: guests.leave()).remove)
    for module in visitors:
        for handle in guests.invite(module):
            undo.callback(handle.remove)


def find_device(module: nn.Module) -> torch.device:
    """Where a network is."""
    weights = chain(module.parameters(), module.buffers())
    return next((weight.device for weight in weights), AWAY)


class Guests:
    """Networks that come to the device when they are called, and leave when the chain's is.

    So they are there for their own backward passes, which end before the chain's begins.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.present: list[nn.Module] = []

    def invite(self, guest: nn.Module) -> Sequence[Any]:
        """From now on, `guest` comes when it, or a part of it, is called; the hooks' handles."""

        def come(*_: object) -> None:
            if guest not in self.present:
                self.present.append(guest.to(self.device))

        parts: Iterable[nn.Module] = (guest, *guest.children())
        hook: Callable[..., None] = come
        return [part.register_forward_pre_hook(hook) for part in parts]

    def leave(self) -> None:
        """Send all of them away."""
        while self.present:
            self.present.pop().to(AWAY)
