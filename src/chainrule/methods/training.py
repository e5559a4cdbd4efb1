"""The one loop of the methods that train: an embedding, weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.losses.base import unconnected
from chainrule.memory import begin_phase
from chainrule.methods.base import State
from chainrule.methods.fitting import not_its_own, require_layout, require_like
from chainrule.optimise import SCALES, Optimiser


@dataclass(frozen=True, eq=False)
class Training(State):
    """All of a training at one moment.

    Args:
        values: What is trained, by name.
        memory: What the optimiser keeps of each, by the same names: (2, *shape), and maybe scales.
        losses: (k, n), the n terms of the loss at each iteration so far.
        best: The values of the lowest loss so far, by name; empty where each iteration has a loss
            of its own.
        given: What was made once, before the first iteration, by name: latents of pictures.
    """

    values: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    losses: Tensor
    best: Mapping[str, Tensor] = field(default_factory=dict)
    given: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        parameters: Mapping[str, Tensor],
        terms: int,
        optimiser: Optimiser | None = None,
        **given: Tensor,
    ) -> Training:
        """The state before the first iteration, of a loss of so many `terms`.

        Args:
            parameters: What is trained, by name.
            terms: How many terms the loss has.
            optimiser: Whose memory is empty yet; None: one that keeps all of it.
            given: What was made before it.
        """
        values = {name: value.detach().clone() for name, value in parameters.items()}
        memory: dict[str, Tensor] = {}
        for name, value in values.items():
            memory |= _keep(name, torch.stack([0 * value, 0 * value]), optimiser)
        return cls(values, memory, torch.zeros(0, terms), given=given)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Training:
        if "losses" not in tensors:
            raise UserError("this is not the state of a training (it has no losses)", "delete it")
        values, memory, best, given = (
            {name.removeprefix(kind): t for name, t in tensors.items() if name.startswith(kind)}
            for kind in ("value ", "memory ", "best ", "given ")
        )
        return cls(values, memory, tensors["losses"].cpu(), best, given)

    def tensors(self) -> dict[str, Tensor]:
        values = {f"value {name}": value for name, value in self.values.items()}
        memory = {f"memory {name}": value for name, value in self.memory.items()}
        best = {f"best {name}": value for name, value in self.best.items()}
        given = {f"given {name}": value for name, value in self.given.items()}
        return values | memory | best | given | {"losses": self.losses}

    def require_like(self, own: Training, most: int) -> None:
        """Raise UserError for a state, from a file, that is none of this training.

        Args:
            own: The state before the first iteration.
            most: How many iterations there are.
        """
        require_layout({"losses": self.losses}, {"losses": "k n"}, {"n": own.losses.shape[1]})
        if len(self.losses) > most:
            raise not_its_own(f"it has {len(self.losses)} iterations of {most}")
        best = own.values if self.best else {}
        expected = replace(own, best=best, losses=self.losses)
        require_like(self.tensors(), expected.tensors())

    def select(self, names: Iterable[str], rows: slice) -> Training:
        """One phase of a training in several: some of the values, and some of the iterations.

        Args:
            names: What is trained in it.
            rows: Its iterations.
        """
        values = {name: self.values[name] for name in names}
        memory = {n: kept for n, kept in self.memory.items() if n.removesuffix(SCALES) in values}
        return replace(self, values=values, memory=memory, losses=self.losses[rows])

    def join(self, other: Training) -> Training:
        """The training of this phase and the `other`, which came after it."""
        return replace(
            self,
            values={**self.values, **other.values},
            memory={**self.memory, **other.memory},
            losses=torch.cat([self.losses, other.losses]),
        )

    @property
    def iteration(self) -> int:
        return len(self.losses)

    @property
    def numbers(self) -> dict[str, float]:
        if not len(self.losses):
            return {}
        whole = self.losses.sum(dim=1)
        best = {"best": whole.min().item()} if self.best else {}
        return {"loss": whole[-1].item()} | best


def train(
    parameters: Mapping[str, Tensor],
    objective: Callable[[int], Tensor | Iterable[Tensor]],
    optimiser: Optimiser,
    iterations: int,
    state: Training,
    *,
    keep_best: bool = False,
    every: int = 1,
) -> Iterator[Training]:
    """The states after each iteration from `state` on.

    Args:
        parameters: Leaves that want gradients; they are written to.
        objective: The loss of iteration k: its terms (n,), which depend on the parameters, or its
            parts one after another, each with its terms. Their sum is the loss; one graph lives at
            a time.
        optimiser: How they move.
        iterations: How many there are in all.
        state: Where to begin.
        keep_best: Whether all iterations have one loss, so that the values of the lowest are kept.
            What the last update left behind is judged then too, in one iteration more.
        every: After how many iterations there is a state. Where much is trained and an iteration
            is short, more than one: whoever executes a run writes each down.

    Raises:
        UserError: If the loss or a gradient stops being finite.
    """
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.values[name])
    for k in range(state.iteration, iterations + keep_best):
        begin_phase("walk")
        done = k == iterations
        ask = [] if done else list(parameters.values())
        terms, gradients = _sum_parts(partial(objective, k), ask)
        _check([*terms.tolist(), *(g.sum().item() for g in gradients)], k)
        losses = torch.cat([state.losses, terms.cpu()[None]])
        best = state.values if losses.sum(dim=1).argmin() == k else state.best
        state = replace(state, losses=losses, best=best if keep_best else {})
        if done:
            yield state
            return
        memory: dict[str, Tensor] = {}
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                known = optimiser.recall(state.memory[name], state.memory.get(name + SCALES))
                change, known = optimiser.update(parameter, gradient, known, k)
                memory |= _keep(name, known, optimiser)
                parameter += change
        state = replace(state, memory=memory)
        due = (k + 1) % every == 0 or k + 1 == iterations
        if due or keep_best:
            values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
            state = replace(state, values=values)
        if due:
            yield state


def _keep(name: str, memory: Tensor, optimiser: Optimiser | None) -> dict[str, Tensor]:
    """What is kept of a parameter's memory, by the parameter's name."""
    kept = {"": memory} if optimiser is None else optimiser.keep(memory)
    return {name + part: value for part, value in kept.items()}


def _sum_parts(
    loss: Callable[[], Tensor | Iterable[Tensor]], parameters: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The terms (n,) of a loss, summed over its parts, and the gradients of their sum."""
    terms, gradients = [], []
    with torch.set_grad_enabled(bool(parameters)):
        parts = loss()
        for part in (parts,) if isinstance(parts, Tensor) else parts:
            begin_phase("back")
            if parameters:
                gradients.append(_differentiate(part, parameters))
            terms.append(part.detach())
            begin_phase("walk")
    return reduce(add, terms), tuple(reduce(add, each) for each in zip(*gradients, strict=True))


def _differentiate(part: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of a part of a loss; zero where it does not depend on something."""
    found: Sequence[Tensor | None] = [None]
    if part.requires_grad:
        found = torch.autograd.grad(part.sum(), parameters, allow_unused=True)
    if all(gradient is None for gradient in found):
        raise unconnected("of this training")
    return tuple(
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    )


def _check(values: list[float], k: int) -> None:
    if not all(math.isfinite(value) for value in values):
        raise UserError(
            f"the loss or its gradient is not finite in iteration {k}",
            "lower the rate, or use float32",
        )
