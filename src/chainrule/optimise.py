"""Optimisers as functions of tensors, and the one loop that trains with them.

Nothing is fill_in in an optimiser: what it remembers is a tensor that is given and returned, so that a run that was
stopped goes on from a file as if it never had been.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from chainrule.errors import UserError


class Optimiser(BaseModel, ABC):
    """How a gradient changes what is optimised. `rate` is the learning rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rate: float

    @abstractmethod
    def update(self, value: Tensor, gradient: Tensor, memory: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(what to add to `value`, the new memory (2, *value.shape), zero before iteration `k` = 0)."""


class Momentum(Optimiser):
    """DOODL's update (eq. 8). `rate` is its lambda; `clip` bounds each element of the step (None: no bound)."""

    kind: Literal["momentum"] = "momentum"
    rate: float = Field(default=0.05, gt=0)
    clip: float | None = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)

    def update(self, value: Tensor, gradient: Tensor, memory: Tensor, k: int) -> tuple[Tensor, Tensor]:
        g = -self.rate * gradient
        if self.clip is not None:
            g = g.clamp(-self.clip, self.clip)
        velocity = self.momentum * memory[0] + g
        return velocity, torch.stack([velocity, memory[1]])


class Adam(Optimiser):
    """Adam (Kingma & Ba 2015), which does not care for the scale of the loss; AdamW (Loshchilov & Hutter 2019) with a
    `decay`. The memory holds both moments."""

    kind: Literal["adam"] = "adam"
    rate: float = Field(default=0.1, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    decay: float = Field(default=0.0, ge=0)

    def update(self, value: Tensor, gradient: Tensor, memory: Tensor, k: int) -> tuple[Tensor, Tensor]:
        first = torch.lerp(gradient, memory[0], self.beta1)
        second = torch.lerp(gradient.square(), memory[1], self.beta2)
        unbiased, scale = first / (1 - self.beta1 ** (k + 1)), second / (1 - self.beta2 ** (k + 1))
        change = -self.rate * unbiased / (scale.sqrt() + 1e-12)
        return change - self.rate * self.decay * value, torch.stack([first, second])


class Training(NamedTuple):
    """All of a training at one moment: `values` being trained, the optimiser's `memory` of each (2, *shape), by name;
    `losses` (k, n) holds the n terms of the loss at each iteration so far."""

    values: dict[str, Tensor]
    memory: dict[str, Tensor]
    losses: Tensor

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], terms: int) -> Training:
        """The state before the first iteration."""
        values = {name: value.detach().clone() for name, value in parameters.items()}
        return cls(values, {name: torch.stack([0 * v, 0 * v]) for name, v in values.items()}, torch.zeros(0, terms))

    @classmethod
    def unpacked(cls, tensors: Mapping[str, Tensor]) -> Training:
        """The state that `packed` made these tensors of."""
        values, memory = (
            {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}
            for kind in ("value ", "memory ")
        )
        return cls(values, memory, tensors["losses"].cpu())

    def packed(self) -> dict[str, Tensor]:
        """All of it as tensors with names, for a file."""
        values = {f"value {name}": value for name, value in self.values.items()}
        return values | {f"memory {name}": value for name, value in self.memory.items()} | {"losses": self.losses}

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return len(self.losses)


def train(
    parameters: Mapping[str, Tensor],
    objective: Callable[[int], Tensor],
    optimiser: Optimiser,
    iterations: int,
    state: Training,
) -> Iterator[Training]:
    """The states after each iteration from `state` on, until so many `iterations` are done.

    `parameters` are leaves that want gradients; they are written to, and `objective(k)`, the terms (n,) of the loss of
    iteration k, depends on them. Raises UserError if the loss stops being finite.
    """
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.values[name])
    for k in range(state.iteration, iterations):
        with torch.enable_grad():
            terms = objective(k)
            gradients = torch.autograd.grad(terms.sum(), list(parameters.values()))
        if not all(math.isfinite(value) for value in (*terms.tolist(), *(g.sum().item() for g in gradients))):
            raise UserError(f"the loss or its gradient is not finite in iteration {k}: lower the rate, or use float32")
        memory = {}
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                change, memory[name] = optimiser.update(parameter, gradient, state.memory[name], k)
                parameter += change
        values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        state = Training(values, memory, torch.cat([state.losses, terms.detach().cpu()[None]]))
        yield state
