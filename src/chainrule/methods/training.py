"""The one loop of the methods that train: an embedding, weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.memory import begin_phase
from chainrule.methods.base import State
from chainrule.optimise import Optimiser


@dataclass(frozen=True, eq=False)
class Training(State):
    """All of a training at one moment.

    Args:
        values: What is trained, by name.
        memory: The optimiser's, (2, *shape) of each.
        losses: (k, n), the n terms of the loss at each iteration so far.
    """

    values: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    losses: Tensor

    @classmethod
    def begin(cls, parameters: Mapping[str, Tensor], terms: int) -> Training:
        """The state before the first iteration, of a loss of so many `terms`.

        Args:
            parameters: What is trained, by name.
            terms: How many terms the loss has.
        """
        values = {name: value.detach().clone() for name, value in parameters.items()}
        memory = {name: torch.stack([0 * value, 0 * value]) for name, value in values.items()}
        return cls(values, memory, torch.zeros(0, terms))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Training:
        if "losses" not in tensors:
            raise UserError("this is not the state of a training (it has no losses)", "delete it")
        values, memory = (
            {name.removeprefix(kind): t for name, t in tensors.items() if name.startswith(kind)}
            for kind in ("value ", "memory ")
        )
        return cls(values, memory, tensors["losses"].cpu())

    def tensors(self) -> dict[str, Tensor]:
        values = {f"value {name}": value for name, value in self.values.items()}
        memory = {f"memory {name}": value for name, value in self.memory.items()}
        return values | memory | {"losses": self.losses}

    @property
    def iteration(self) -> int:
        return len(self.losses)

    @property
    def numbers(self) -> dict[str, float]:
        return {"loss": self.losses[-1].sum().item()} if len(self.losses) else {}


def train(
    parameters: Mapping[str, Tensor],
    objective: Callable[[int], Tensor],
    optimiser: Optimiser,
    iterations: int,
    state: Training,
) -> Iterator[Training]:
    """The states after each iteration from `state` on.

    Args:
        parameters: Leaves that want gradients; they are written to.
        objective: The terms (n,) of the loss of iteration k, which depends on the parameters.
        optimiser: How they move.
        iterations: How many there are in all.
        state: Where to begin.

    Raises:
        UserError: If the loss or a gradient stops being finite.
    """
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.values[name])
    for k in range(state.iteration, iterations):
        begin_phase("walk")
        with torch.enable_grad():
            terms = objective(k)
            begin_phase("back")
            gradients = torch.autograd.grad(terms.sum(), list(parameters.values()))
        _check([*terms.tolist(), *(g.sum().item() for g in gradients)], k)
        memory = {}
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                change, memory[name] = optimiser.update(parameter, gradient, state.memory[name], k)
                parameter += change
        values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        losses = torch.cat([state.losses, terms.detach().cpu()[None]])
        state = Training(values, memory, losses)
        yield state


def _check(values: list[float], k: int) -> None:
    if not all(math.isfinite(value) for value in values):
        raise UserError(
            f"the loss or its gradient is not finite in iteration {k}",
            "lower the rate, or use float32",
        )
