"""Sampling and inversion: the way from noise to image and back. The one loop over time is `Chain.walk`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.errors import UserError
from chainrule.diffusion.gradient.backprop import Backprop
from chainrule.diffusion.gradient.base import Chain, Gradient, OnStep
from chainrule.diffusion.solvers.base import NOT_FINITE, State, Solver, finite
from chainrule.diffusion.solvers.ddim import DDIM

_DDIM, _BACKPROP = DDIM(), Backprop()


def sample(
    denoiser: Denoiser,
    x_T: Tensor,
    times: Tensor,
    *,
    solver: Solver = _DDIM,
    gradient: Gradient = _BACKPROP,
    on_step: OnStep | None = None,
) -> Tensor:
    """The latent at the end of the chain that starts at the noise `x_T`, both (B, C, h, w).

    `times` (T + 1,) fall from noise to image (`Schedule.times`); for a step that `rises` they may rise too. The result
    is differentiable with respect to `x_T` and `denoiser.inputs`, in the way that `gradient` says; in `torch.no_grad()`
    no graph is built. `x_T` is not changed.
    Raises UserError if a latent stops being finite.
    """
    return solver.final(sample_state(denoiser, solver.init(x_T), times, solver=solver, gradient=gradient, on_step=on_step))


def invert(
    denoiser: Denoiser,
    x_0: Tensor,
    times: Tensor,
    *,
    solver: Solver = _DDIM,
    gradient: Gradient = _BACKPROP,
    on_step: OnStep | None = None,
) -> State:
    """The state at the noisy end whose chain ends at the latent `x_0` (B, C, h, w): `sample_state` leads back.

    Exact, up to rounding, for a reversible step (EDICT: the pair of latents); for others, the usual approximation.
    """
    chain = _chain(denoiser, times, solver, backwards=True, on_step=on_step)
    return _walked(gradient, chain, solver.init(x_0))


def sample_state(
    denoiser: Denoiser,
    state: State,
    times: Tensor,
    *,
    solver: Solver = _DDIM,
    gradient: Gradient = _BACKPROP,
    on_step: OnStep | None = None,
) -> State:
    """As `sample`, from a solver's state to its last state: for EDICT, the pair of latents."""
    chain = _chain(denoiser, times, solver, backwards=False, on_step=on_step)
    last = _walked(gradient, chain, state)
    solver.check(last)
    return last


@torch.no_grad()
def visited(
    denoiser: Denoiser, x_0: Tensor, times: Tensor, *, solver: Solver = _DDIM, on_step: OnStep | None = None
) -> dict[float, Tensor]:
    """The latent of each of the `times` on the way of `invert`, from the image to the noise."""
    chain = _chain(denoiser, times, solver, backwards=True, on_step=on_step)
    states = chain.walk(solver.init(x_0))
    return {t: solver.final(state) for t, state in zip(reversed(chain.times), states, strict=True)}


def _chain(denoiser: Denoiser, times: Tensor, solver: Solver, *, backwards: bool, on_step: OnStep | None) -> Chain:
    asked = tuple(times.tolist())
    if len(asked) < 2 or any(s == t or (s > t and not solver.rises) for t, s in pairwise(asked)):
        raise UserError(
            "a chain needs at least two times, falling from noise to image; `schedule.times(50)` makes them"
            f"{'' if solver.rises else ', and only DDPM can rise to a noisier one'}"
        )
    return Chain(denoiser, asked, solver, backwards, on_step)


def _walked(gradient: Gradient, chain: Chain, state: State) -> State:
    """The end of the chain. If it is not finite, the chain is walked once more to say where that began."""
    last = gradient.integrate(chain, state)
    if finite(last):
        return last
    with torch.no_grad():
        for i, reached in enumerate(chain.seen_by(chain.denoiser).walk(state)):
            if not finite(reached):
                raise UserError(NOT_FINITE.format(where=f"after step {i} of {len(chain)}" if i else "at the start"))
    raise UserError(NOT_FINITE.format(where="at the end of the chain"))
