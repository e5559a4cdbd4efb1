"""What is kept of a walk without its graph, and the backward pass that rebuilds step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from chainrule.diffusion.gradient.base import (
    Chain,
    refuse_second_order,
    refuse_transforms,
    remember_autocast,
    require_unrelated,
    wants_gradient,
)
from chainrule.diffusion.gradient.replay import (
    Reads,
    Suspects,
    find_unnamed,
    measure_drift,
    require_named,
    require_same_steps,
)
from chainrule.diffusion.solvers.base import State
from chainrule.errors import UserError


class Rebuilt(NamedTuple):
    """One step of a chain with its graph.

    Args:
        before: The state before it, whose tensors are fresh leaves.
        after: The state after it, a function of `before`.
        apart: Other outputs with graphs of their own, which hang below it.
        leaves: The fresh leaves of those.
        again: What was computed again of the walk, as `ran` has it; empty: nothing is known of it.
        ran: The same as it was then.
    """

    before: State
    after: State
    apart: State = ()
    leaves: State = ()
    again: State = ()
    ran: State = ()


class Tape(ABC):
    """What is kept of a walk without a graph, from which steps are rebuilt, the last one first."""

    gradient: ClassVar[str]
    """The name of what uses it, for messages."""

    reads: Reads
    """What the walk read."""

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
    inputs = chain.inputs
    if not wants_gradient((*state, *inputs)):
        return chain.last(state, stop=stop)
    refuse_transforms(tape.gradient)
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
        tape.reads = Reads(chain, tensors[:width])
        with ctx.precision():
            last = tape.record(chain, tuple(tensor.detach() for tensor in tensors[:width]), stop)
        tape.reads.settle()
        # not saved as autograd saves: it may hand out copies, which are no part of a rebuilt graph
        ctx.inputs = tensors[width:]
        return tuple(tensor.clone() for tensor in last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order(ctx.tape.gradient, gradients)
        ctx.tape.reads.require_unchanged()
        inputs = ctx.inputs
        wanted = ctx.needs_input_grad[4:]
        totals: list[Tensor | None] = [None] * len(inputs)
        # read at the end: asking a GPU at each step would slow it down
        healthy: list[Tensor] = [_are_finite(gradients)]
        drifts: list[tuple[int, Tensor]] = []
        for i in reversed(range(ctx.stop)):
            # nobody asks for the gradient of a starting state that needs none
            ask_state = i > 0 or any(wanted[: ctx.width])
            gradients, of_inputs, unnamed, drift = _back_through(ctx, i, gradients, ask_state)
            drifts += [(i, drift)] if drift is not None else []
            require_named(unnamed, ctx.tape.reads)
            totals = [_add(total, new) for total, new in zip(totals, of_inputs, strict=True)]
            found = [gradient for gradient in (*gradients, *of_inputs) if gradient is not None]
            healthy.append(_are_finite(found) if found else healthy[-1])
        require_same_steps(ctx.chain, ctx.tape.gradient, drifts, half=ctx.tape.reads.half)
        _check_health(torch.stack(healthy).tolist(), ctx.stop, len(ctx.chain))
        state_gradients = gradients if ask_state else (None,) * ctx.width
        return (None, None, None, None, *state_gradients, *totals)


def guard(reads: Reads, state: State) -> State:
    """`state`, whose backward pass begins by asking whether what was read is unchanged.

    For steps that keep their graphs: autograd would ask as well, but not so that a user knows what
    it is about.

    Args:
        reads: What the chain read.
        state: The end of it.
    """
    guarded: State = _Guard.apply(reads, *state)
    return guarded


class _Guard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reads: Reads, *tensors: Tensor) -> State:
        ctx.reads = reads
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.reads.require_unchanged()
        return (None, *gradients)


def _back_through(
    ctx: Any, i: int, gradients: Sequence[Tensor], ask_state: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...], Suspects, Tensor | None]:
    """The gradients of the state before step `i` and of the inputs, and whose are not asked for.

    And how far what was computed again is from what ran, if that is known.

    A tensor of the state that the step ignores has gradient zero.
    """
    with torch.enable_grad(), ctx.precision():
        before, after, apart, leaves, again, ran = ctx.tape.rebuild(ctx.chain, i)
    drift = measure_drift(again, ran) if ran else None
    unnamed = find_unnamed((*after, *apart), (*before, *leaves, *ctx.inputs), ctx.tape.reads)
    if not ask_state:
        before = ()
    # what a solver remembers of the clock depends on nothing
    live = [(out, g) for out, g in zip(after, gradients, strict=True) if out.requires_grad]
    if not live:
        raise UserError(
            f"step {i + 1} of {len(ctx.chain)} has no graph, so nothing could get a gradient",
            "let the denoiser and the solver keep their graphs (no detach())",
            "gradient",
        )
    outputs, weights = zip(*live, strict=True)
    found = torch.autograd.grad(outputs, (*before, *ctx.inputs), weights, allow_unused=True)
    of_state = tuple(
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(before, found[: len(before)], strict=True)
    )
    return of_state, found[len(before) :], unnamed, drift


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
