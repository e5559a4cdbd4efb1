"""The chain as a sequence of steps, and what it takes to differentiate it without its graph.

With phi for everything else that wants a gradient (conditioning, weights) and z_i for the
solver's state,

    z_{i+1} = step_i(z_i, phi)
    dL/dz_i  = dL/dz_{i+1} d step_i/dz_i        dL/dphi = sum_i dL/dz_{i+1} d step_i/dphi

so the gradient needs the graph of one step at a time, and the z_i at which to build it.
Storing the z_i (`Checkpoint`) and recomputing them (`Reversible`) differ in nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from chainrule.diffusion.denoiser import Denoiser, find_networks
from chainrule.diffusion.held import find_tensors
from chainrule.diffusion.solvers.base import Solver, State
from chainrule.errors import UserError

OnStep = Callable[[int, int], None]
"""Told, after each step of a chain, how many are done and how many there are."""


@dataclass(frozen=True)
class Chain:
    """A solver's whole walk.

    Args:
        denoiser: What is asked on the way.
        times: (T + 1,), falling, or for a solver that `rises` rising too.
        solver: What makes the steps.
        backwards: Walk from the image to the noise.
        on_step: Told after each step.
        first: How many steps towards the image were made before `times`.
    """

    denoiser: Denoiser
    times: tuple[float, ...]
    solver: Solver
    backwards: bool = False
    on_step: OnStep | None = None
    first: int = 0

    def __len__(self) -> int:
        return len(self.times) - 1

    def advance(self, i: int, state: State) -> State:
        """The state after step `i` of the walk, given the one before it."""
        return self._move(i, state, self.backwards)

    def retreat(self, i: int, state: State) -> State:
        """The state before step `i` of the walk, given the one after it."""
        return self._move(i, state, not self.backwards)

    def walk(self, state: State, start: int = 0, stop: int | None = None) -> Iterator[State]:
        """Every state on a part of the walk, the first one included.

        Args:
            state: The one before step `start`.
            start: The first step.
            stop: The step before which to end; None: the end of the walk.
        """
        yield state
        for i in range(start, len(self) if stop is None else stop):
            state = self.advance(i, state)
            if self.on_step:
                self.on_step(i + 1, len(self))
            yield state

    def last(self, state: State, start: int = 0, stop: int | None = None) -> State:
        """The last state of such a walk; those on the way are let go."""
        for state in self.walk(state, start, stop):  # noqa: B007, B020 - only the last one matters
            pass
        return state

    def replace_denoiser(self, denoiser: Denoiser) -> Chain:
        """The same walk with another denoiser."""
        return replace(self, denoiser=denoiser)

    def rest(self, start: int) -> Chain:
        """The walk that is left when `start` steps are made."""
        told, whole = self.on_step, len(self)

        def on_step(done: int, _: int) -> None:
            if told:
                told(start + done, whole)

        if self.backwards:
            return replace(self, times=self.times[: whole - start + 1], on_step=on_step)
        times, first = self.times[start:], self.first + start
        return replace(self, times=times, on_step=on_step, first=first)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that its steps ask, each once."""
        return find_networks(self.denoiser, self.solver)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors besides the state that want a gradient, each once."""
        return drop_repeats((*self.denoiser.inputs, *self.solver.inputs))

    @property
    def reads(self) -> dict[str, Tensor]:
        """The tensors besides the state that its steps depend on, by name (`Denoiser.reads`)."""
        return {**find_tensors(self.solver), **self.denoiser.reads}

    def _move(self, i: int, state: State, inverse: bool) -> State:
        k = len(self) - 1 - i if self.backwards else i
        move = self.solver.inverse if inverse else self.solver.step
        moved = move(self.denoiser, state, self.first + k, self.times[k], self.times[k + 1])
        _check_moved(self.solver, state, moved)
        return moved


def _check_moved(solver: Solver, before: State, after: object) -> None:
    """Refuse what is no state of the same latents: another shape would be broadcast on."""
    name, expected = type(solver).__name__, tuple(solver.final(before).shape)
    cure = f"return a tuple of tensors, whose latents keep the shape {expected}"
    if not isinstance(after, tuple) or not after or not all(isinstance(x, Tensor) for x in after):
        found = "None" if after is None else f"a {type(after).__name__}"
        if isinstance(after, tuple):
            found = f"a tuple of {', '.join(type(x).__name__ for x in after) or 'nothing'}"
        raise UserError(f"a step of {name} returned {found}, not a state", cure, "solver")
    found_shape = tuple(solver.final(after).shape)
    if found_shape != expected:
        raise UserError(f"a step of {name} returned latents {found_shape}", cure, "solver")


class Gradient(ABC):
    """A way to differentiate a chain."""

    @abstractmethod
    def integrate(self, chain: Chain, state: State) -> State:
        """Walk the whole chain.

        Args:
            chain: The walk.
            state: The state that it starts from.

        Returns:
            The last state. It is ordinary autograd: call `.backward()` on what becomes of it. In
            `torch.no_grad()`, or if nothing wants a gradient, this is the bare walk.
        """


def remember_autocast(device_type: str) -> Callable[[], AbstractContextManager[None]]:
    """The autocast that is on now, to be entered again: a step is rebuilt in the numbers it ran in.

    Without the cache of cast weights, which would carry a weight's copy from a walk without a graph
    to one with.
    """
    enabled = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type)
    return partial(torch.autocast, device_type, dtype=dtype, enabled=enabled, cache_enabled=False)


def is_transformed() -> bool:
    """Whether one of torch.func's transforms or forward mode is at work."""
    # what torch.autograd.Function and torch.func themselves ask
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def refuse_transforms(name: str) -> None:
    """Refuse torch.func's transforms and forward mode.

    They would not see the tensors that a chain reads besides those that it is given.

    Args:
        name: Of the gradient that cannot do it.
    """
    if is_transformed():
        raise _only_first_derivatives(name)


def refuse_second_order(name: str, gradients: Sequence[Tensor]) -> None:
    """In a backward pass: refuse to be differentiated again, which would find nothing.

    Args:
        name: Of the gradient that cannot do it.
        gradients: Those that come in; many at once (is_grads_batched=True) are refused too.
    """
    batched = any(map(torch._C._functorch.is_legacy_batchedtensor, gradients))
    if batched or torch.is_grad_enabled():  # as it is for create_graph=True, and for nothing else
        raise _only_first_derivatives(name)
    refuse_transforms(name)


def _only_first_derivatives(name: str) -> UserError:
    return UserError(
        f"{name} gives first derivatives only, one at a time",
        "use gradient=Backprop() for create_graph=True, batched gradients, torch.func and forward "
        "mode",
        "gradient",
    )


def wants_gradient(tensors: Sequence[Tensor]) -> bool:
    """Whether any of them does, here and now."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def require_unrelated(inputs: Sequence[Tensor]) -> None:
    """Refuse a conditioning that is computed from another.

    Autograd would count the way through it at every step, and again.
    """
    for tensor in inputs:
        others = [other for other in inputs if other is not tensor and other.requires_grad]
        if tensor.grad_fn is None or not others:
            continue
        found = torch.autograd.grad(tensor.sum(), others, allow_unused=True, retain_graph=True)
        if any(gradient is not None for gradient in found):
            raise UserError(
                "a conditioning tensor is computed from another one that is conditioned on too",
                "condition on a copy of that one (`tensor.clone()`), so that neither comes from "
                "the other",
            )


def drop_repeats(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Each tensor once: autograd would give the whole gradient to every mention of it."""
    return tuple({id(tensor): tensor for tensor in tensors}.values())


def make_leaves(state: State) -> State:
    """Fresh leaves with the values of `state`, that want gradients."""
    return tuple(tensor.detach().requires_grad_() for tensor in state)
