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
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
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
    """

    denoiser: Denoiser
    times: tuple[float, ...]
    solver: Solver
    backwards: bool = False
    on_step: OnStep | None = None

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
        """The same walk with another denoiser, of which nobody is told."""
        return Chain(denoiser, self.times, self.solver, self.backwards)

    def _move(self, i: int, state: State, inverse: bool) -> State:
        k = len(self) - 1 - i if self.backwards else i
        move = self.solver.inverse if inverse else self.solver.step
        return move(self.denoiser, state, k, self.times[k], self.times[k + 1])


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


class Rebuilt(NamedTuple):
    """One step of a chain with its graph.

    Args:
        before: The state before it, whose tensors are fresh leaves.
        after: The state after it, a function of `before`.
    """

    before: State
    after: State


class Tape(ABC):
    """What is kept of a walk without a graph, from which steps are rebuilt, the last one first."""

    @abstractmethod
    def record(self, chain: Chain, state: State, stop: int) -> State:
        """Walk without a graph, and remember.

        Args:
            chain: The walk.
            state: The state that it starts from.
            stop: How many steps are made.

        Returns:
            The state after them.
        """

    @abstractmethod
    def rebuild(self, chain: Chain, i: int) -> Rebuilt:
        """Step `i` with its graph. Called with grad enabled, from the last step to the first."""


def integrate_on_tape(chain: Chain, state: State, tape: Tape, stop: int) -> State:
    """Walk so that the backward pass holds the graph of one step at a time.

    Args:
        chain: The walk.
        state: The state that it starts from.
        tape: What remembers.
        stop: How many steps are made.

    Returns:
        The state after them.
    """
    inputs = drop_repeats(chain.denoiser.inputs)
    if not wants_gradient((*state, *inputs)):
        return chain.last(state, stop=stop)
    require_unrelated(inputs)
    last: State = _OnTape.apply(chain, tape, stop, len(state), *state, *inputs)
    return last


class _OnTape(torch.autograd.Function):
    """The chain as one node of the autograd graph; backwards, it is the sum over steps above."""

    @staticmethod
    def forward(
        ctx: Any, chain: Chain, tape: Tape, stop: int, width: int, *tensors: Tensor
    ) -> State:
        ctx.chain, ctx.tape, ctx.stop, ctx.width = chain, tape, stop, width
        ctx.precision = remember_autocast(tensors[0].device.type)
        with ctx.precision():
            last = tape.record(chain, tuple(tensor.detach() for tensor in tensors[:width]), stop)
        # autograd then refuses a backward pass after a tensor was changed in place
        ctx.save_for_backward(*tensors)
        return tuple(tensor.clone() for tensor in last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors[ctx.width :]
        wanted = ctx.needs_input_grad[4:]
        totals: list[Tensor | None] = [None] * len(inputs)
        # read at the end: asking a GPU at each step would slow it down
        healthy: list[Tensor] = [_are_finite(gradients)]
        for i in reversed(range(ctx.stop)):
            # nobody asks for the gradient of a starting state that needs none
            ask_state = i > 0 or any(wanted[: ctx.width])
            with torch.enable_grad(), ctx.precision():
                before, after = ctx.tape.rebuild(ctx.chain, i)
            if not ask_state:
                before = ()
            gradients, of_inputs = _back_through(before, after, inputs, gradients)
            totals = [_add(total, new) for total, new in zip(totals, of_inputs, strict=True)]
            found = [gradient for gradient in (*gradients, *of_inputs) if gradient is not None]
            healthy.append(_are_finite(found) if found else healthy[-1])
        _check_health(torch.stack(healthy).tolist(), ctx.stop, len(ctx.chain))
        state_gradients = gradients if ask_state else (None,) * ctx.width
        return (None, None, None, None, *state_gradients, *totals)


def _back_through(
    before: State, after: State, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """The gradients of the state before a step and of the inputs, given those of the state after.

    A tensor of the state that the step ignores has gradient zero.
    """
    # what a solver remembers of the clock depends on nothing
    live = [(out, g) for out, g in zip(after, gradients, strict=True) if out.requires_grad]
    outputs, weights = zip(*live, strict=True)
    found = torch.autograd.grad(outputs, (*before, *inputs), weights, allow_unused=True)
    of_state = tuple(
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(before, found[: len(before)], strict=True)
    )
    return of_state, found[len(before) :]


def remember_autocast(device_type: str) -> Callable[[], AbstractContextManager[None]]:
    """The autocast that is on now, to be entered again: a step is rebuilt in the numbers it ran in.

    Without the cache of cast weights, which would carry a weight's copy from a walk without a graph
    to one with.
    """
    enabled = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type)
    return partial(torch.autocast, device_type, dtype=dtype, enabled=enabled, cache_enabled=False)


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


def _are_finite(gradients: Sequence[Tensor]) -> Tensor:
    """Whether all of them are, a boolean scalar where the first one is.

    Those of what a solver remembers of the clock may be on the CPU.
    """
    device = gradients[0].device
    return torch.stack([torch.isfinite(each).all().to(device) for each in gradients]).all()


def _check_health(healthy: list[bool], stop: int, steps: int) -> None:
    """Refuse gradients that stop being finite on their way back.

    Args:
        healthy: Whether they were, at the end and before each step, the last step first.
        stop: How many of the chain's steps these are, the first ones.
        steps: How many the chain has.
    """
    if healthy[0] and not all(healthy):
        step = stop + 1 - healthy.index(False)
        raise UserError(
            f"the gradient stops being finite on its way back through step {step} of {steps}",
            "use float32 or bfloat16 for the network, a lower guidance scale or more steps",
        )


def _add(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if total is None else total if new is None else total + new


def drop_repeats(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Each tensor once: autograd would give the whole gradient to every mention of it."""
    return tuple({id(tensor): tensor for tensor in tensors}.values())


def make_leaves(state: State) -> State:
    """Fresh leaves with the values of `state`, that want gradients."""
    return tuple(tensor.detach().requires_grad_() for tensor in state)
