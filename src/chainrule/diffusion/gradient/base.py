"""The chain as a sequence of steps, and what it takes to differentiate it without keeping its graph.

With phi for everything else that wants a gradient (conditioning, weights) and z_i for the solver's state,

    z_{i+1} = step_i(z_i, phi)
    dL/dz_i  = dL/dz_{i+1} d step_i/dz_i        dL/dphi = sum_i dL/dz_{i+1} d step_i/dphi

so the gradient needs the graph of one step at a time, and the z_i at which to build it. Storing the z_i (`Checkpoint`)
and recomputing them (`Reversible`) differ in nothing else.
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
from chainrule.errors import UserError
from chainrule.diffusion.solvers.base import State, Solver

OnStep = Callable[[int, int], None]
"""Told, after each step of a chain, how many are done and how many there are."""


@dataclass(frozen=True)
class Chain:
    """A solver's whole walk along `times` (falling). `backwards` walks from the image to the noise."""

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
        """Every state from `start` to `stop` (the end, if None), the first one included."""
        yield state
        for i in range(start, len(self) if stop is None else stop):
            state = self.advance(i, state)
            if self.on_step:
                self.on_step(i + 1, len(self))
            yield state

    def last(self, state: State, start: int = 0, stop: int | None = None) -> State:
        """The state at `stop`; those on the way are let go."""
        for state in self.walk(state, start, stop):  # noqa: B007, B020 - the last one is what we are after
            pass
        return state

    def seen_by(self, denoiser: Denoiser) -> Chain:
        """The same walk with another denoiser, unheard."""
        return Chain(denoiser, self.times, self.solver, self.backwards)

    def _move(self, i: int, state: State, inverse: bool) -> State:
        j = len(self) - 1 - i if self.backwards else i
        move = self.solver.inverse if inverse else self.solver.step
        return move(self.denoiser, state, self.times[j], self.times[j + 1])


class Gradient(ABC):
    """A way to differentiate a chain."""

    @abstractmethod
    def integrate(self, chain: Chain, state: State) -> State:
        """Walk the whole chain from `state`. What comes back is ordinary autograd: call `.backward()` on it.

        In `torch.no_grad()`, or if nothing wants a gradient, this is the bare walk.
        """


class Rebuilt(NamedTuple):
    """One step of a chain with its graph: `after` as a function of `before`, whose tensors are fresh leaves."""

    before: State
    after: State


class Tape(ABC):
    """What is kept of a walk that ran without a graph, from which its steps are rebuilt from the last to the first."""

    @abstractmethod
    def record(self, chain: Chain, state: State, stop: int) -> State:
        """Walk the first `stop` steps without a graph, remember, and return the state after them."""

    @abstractmethod
    def rebuild(self, chain: Chain, i: int) -> Rebuilt:
        """Step `i` with its graph. Called with grad enabled, from the last step to the first."""


def integrate_on_tape(chain: Chain, state: State, tape: Tape, stop: int) -> State:
    """Walk the first `stop` steps of `chain` so that the backward pass holds the graph of one step at a time."""
    inputs = distinct(chain.denoiser.inputs)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*state, *inputs))):
        return chain.last(state, stop=stop)
    require_unrelated(inputs)
    return _OnTape.apply(chain, tape, stop, len(state), *state, *inputs)  # type: ignore[no-any-return]


class _OnTape(torch.autograd.Function):
    """The chain as one node of the autograd graph, with the sum over steps above as its backward pass."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, tape: Tape, stop: int, width: int, *tensors: Tensor) -> State:
        ctx.chain, ctx.tape, ctx.stop, ctx.width = chain, tape, stop, width
        ctx.precision = precision(tensors[0].device.type)
        with ctx.precision():
            last = tape.record(chain, tuple(tensor.detach() for tensor in tensors[:width]), stop)
        ctx.save_for_backward(*tensors)  # autograd then refuses a backward pass after a tensor was changed in place
        return tuple(tensor.clone() for tensor in last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors[ctx.width :]
        wanted = ctx.needs_input_grad[4:]
        totals: list[Tensor | None] = [None] * len(inputs)
        healthy: list[Tensor] = [_healthy(gradients)]  # read at the end: asking a GPU at each step would slow it down
        for i in reversed(range(ctx.stop)):
            # nobody asks for the gradient of a starting state that needs none
            ask_state = i > 0 or any(wanted[: ctx.width])
            with torch.enable_grad(), ctx.precision():
                before, after = ctx.tape.rebuild(ctx.chain, i)
            asked = (*(before if ask_state else ()), *inputs)
            # what a solver remembers of the clock depends on nothing
            live = [(out, gradient) for out, gradient in zip(after, gradients, strict=True) if out.requires_grad]
            outputs, weights = zip(*live, strict=True)
            found = torch.autograd.grad(outputs, asked, weights, allow_unused=True)
            gradients, of_inputs = _split(found, before if ask_state else ())
            totals = [_add(total, new) for total, new in zip(totals, of_inputs, strict=True)]
            found_here = [gradient for gradient in (*gradients, *of_inputs) if gradient is not None]
            healthy.append(_healthy(found_here) if found_here else healthy[-1])
        _check_health(torch.stack(healthy).tolist(), ctx.stop, len(ctx.chain))
        state_gradients = gradients if ask_state else (None,) * ctx.width
        return (None, None, None, None, *state_gradients, *totals)


def precision(device_type: str) -> Callable[[], AbstractContextManager[None]]:
    """The autocast that is on now, to be entered again: a step is rebuilt in the numbers in which it ran.

    Without the cache of cast weights, which would carry a weight's copy from a walk without a graph to one with.
    """
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    return partial(torch.autocast, device_type, dtype=dtype, enabled=enabled, cache_enabled=False)


def require_unrelated(inputs: Sequence[Tensor]) -> None:
    """Refuse a conditioning computed from another: autograd would count the way through it at every step, and again."""
    for tensor in inputs:
        others = [other for other in inputs if other is not tensor and other.requires_grad]
        if tensor.grad_fn is None or not others:
            continue
        found = torch.autograd.grad(tensor.sum(), others, allow_unused=True, retain_graph=True)
        if any(gradient is not None for gradient in found):
            raise UserError(
                "a conditioning tensor is computed from another one that is conditioned on too: condition on a copy of "
                "that one (`tensor.clone()`), so that neither comes from the other"
            )


def _healthy(gradients: Sequence[Tensor]) -> Tensor:
    """Whether all of them are finite, a boolean scalar where the first is; what counts steps may be on the CPU."""
    device = gradients[0].device
    return torch.stack([torch.isfinite(gradient).all().to(device) for gradient in gradients]).all()


def _check_health(healthy: list[bool], stop: int, steps: int) -> None:
    """Raise UserError if a gradient that came finite to the last of the first `stop` steps is not so any more."""
    if healthy[0] and not all(healthy):
        step = stop + 1 - healthy.index(False)
        raise UserError(
            f"the gradient stops being finite on its way back through step {step} of {steps}: use float32 or bfloat16 "
            "for the network, a lower guidance scale or more steps"
        )


def _split(found: tuple[Tensor | None, ...], before: State) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """The gradients of the state (a tensor that the step ignores has gradient zero) and those of the inputs."""
    of_state = tuple(
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(before, found[: len(before)], strict=True)
    )
    return of_state, found[len(before) :]


def _add(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if total is None else total if new is None else total + new


def distinct(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Each tensor once: autograd would give the whole gradient to every mention of it."""
    return tuple({id(tensor): tensor for tensor in tensors}.values())


def leaves(state: State) -> State:
    """Fresh leaves with the values of `state`, that want gradients."""
    return tuple(tensor.detach().requires_grad_() for tensor in state)
