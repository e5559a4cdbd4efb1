"""How a run fits the memory that there is: what it keeps, what it rebuilds, and what waits elsewhere.

Every level of a plan but `half` computes the same images and the same gradients, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from chainrule.losses.base import Loss
from chainrule.memory import modules
from chainrule.models.base import Model


class Plan(BaseModel):
    """Memory for time, or time for memory.

    `keep` is of how many steps the graphs are kept instead of rebuilt (`Checkpoint`), `seen` how many images are
    decoded and loss_and_gradient at once, `together` how many are computed at once at all (None: all of them); `rebuilt` rebuilds
    the graphs inside the network and the autoencoder too, block by block; `aside` leaves on the CPU what is not at
    work (the text encoder, and the autoencoder and the losses while the chain runs); `half` holds the network's weights
    in bfloat16, beside latents in float32, which is **not** the same gradient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    keep: int = Field(default=0, ge=0)
    seen: int | None = Field(default=None, ge=1)
    together: int | None = Field(default=None, ge=1)
    rebuilt: bool = False
    aside: bool = False
    half: bool = False

    def __str__(self) -> str:
        said = {
            f"the graphs of {self.keep} steps kept": self.keep > 0,
            f"judged {self.seen} at a time": self.seen is not None,
            f"computed {self.together} at a time": self.together is not None,
            "blocks rebuilt": self.rebuilt,
            "the idle on the CPU": self.aside,
            "weights in bfloat16": self.half,
        }
        return ", ".join(part for part, holds in said.items() if holds) or "plain"

    @property
    def sight(self) -> int | None:
        """How many images are decoded and loss_and_gradient at once (None: all of them)."""
        return min((size for size in (self.seen, self.together) if size is not None), default=None)

    def tighter(self, batch: int, device: torch.device) -> Iterator[Plan]:
        """The plans below this one that compute the same, for `batch` images on `device`, each of less memory."""
        changes: list[dict[str, object]] = [{"keep": 0}]
        changes += [{"seen": 1}] if batch > 1 else []
        changes += [{"together": size} for size in _halves(batch) if size < (self.together or batch)]
        changes += [{"rebuilt": True}]
        changes += [{"aside": True}] if device.type != "cpu" else []
        plan = self
        for change in changes:
            lower = plan.model_copy(update=change)
            if lower != plan:
                plan = lower
                yield plan


def _halves(size: int) -> Iterator[int]:
    while size > 1:
        size = (size + 1) // 2
        yield size


def arrange(model: Model, loss: Loss | None, plan: Plan) -> None:
    """Switch and move the networks of a model and a loss as `plan` has it.

    In place: they are the model's own (`chainrule.load`). What is once `aside` comes and goes from then on.
    """
    networks, codecs = modules(model.network), modules(model.codec)
    for module in (*networks, *codecs):
        if getattr(module, "_supports_gradient_checkpointing", False):
            switched: Any = module
            switched.enable_gradient_checkpointing() if plan.rebuilt else switched.disable_gradient_checkpointing()
    for module in networks:
        module.to(model.device, torch.bfloat16 if plan.half else None)
    visitors = modules(model.codec, loss)
    readers = [module for module in modules(model.text) if module not in (*networks, *codecs)]
    for module in (*visitors, *readers):
        module.to(AWAY if plan.aside else model.device)
    if plan.aside:
        guests = Guests(model.device)
        for module in networks:
            module.register_forward_pre_hook(lambda *_: guests.leave())
        for module in visitors:
            guests.invite(module)


AWAY = torch.device("cpu")


class Guests:
    """Networks that come to the `device` when they are called, and leave when the chain's network is.

    So they are there for their own backward passes, which end before the chain's begins.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.present: list[nn.Module] = []

    def invite(self, guest: nn.Module) -> None:
        """From now on, `guest` comes when it, or a part of it, is called."""

        def come(*_: object) -> None:
            if guest not in self.present:
                self.present.append(guest.to(self.device))

        for module in (guest, *guest.children()):
            module.register_forward_pre_hook(come)

    def leave(self) -> None:
        """Send all of them away."""
        while self.present:
            self.present.pop().to(AWAY)
