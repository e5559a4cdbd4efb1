"""Sampling and inversion: the way from noise to image and back.

The one loop over time is `Chain.walk`. Whether graphs are built is up to who calls: in
`torch.no_grad()` there are none.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.backprop import Backprop
from chainrule.diffusion.gradient.base import Chain, Gradient, OnStep
from chainrule.diffusion.solvers.base import Solver, State, is_finite, not_finite
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.errors import UserError

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
    """Walk from noise to image.

    Args:
        denoiser: What is asked on the way.
        x_T: The starting noise (B, C, h, w); it is not changed.
        times: (T + 1,), falling from noise to image (`Schedule.times`); for a solver that `rises`
            they may rise too.
        solver: What makes the steps.
        gradient: How the result is differentiated with respect to `x_T` and `denoiser.inputs`.
        on_step: Told after each step.

    Returns:
        The latent at the end of the chain (B, C, h, w).

    Raises:
        UserError: If a latent stops being finite, or the times do not fall.
    """
    state = sample_state(
        denoiser, solver.init(x_T), times, solver=solver, gradient=gradient, on_step=on_step
    )
    return solver.final(state)


def invert(
    denoiser: Denoiser,
    x_0: Tensor,
    times: Tensor,
    *,
    solver: Solver = _DDIM,
    gradient: Gradient = _BACKPROP,
    on_step: OnStep | None = None,
) -> State:
    """Walk from image to noise.

    Exact, up to rounding, for a reversible solver; for others, the usual approximation.

    Args:
        denoiser: What is asked on the way.
        x_0: The latent of the image (B, C, h, w).
        times: (T + 1,), falling from noise to image.
        solver: What makes the steps.
        gradient: How the result is differentiated with respect to `x_0` and `denoiser.inputs`.
        on_step: Told after each step.

    Returns:
        The solver's state at the noisy end (EDICT: the pair of latents), from which `sample_state`
        leads back.

    Raises:
        UserError: If the solver cannot be inverted, a latent stops being finite, or the times do
            not fall.
    """
    chain = _make_chain(denoiser, times, solver, backwards=True, on_step=on_step)
    return _integrate(gradient, chain, solver.init(x_0))


def sample_state(
    denoiser: Denoiser,
    state: State,
    times: Tensor,
    *,
    solver: Solver = _DDIM,
    gradient: Gradient = _BACKPROP,
    on_step: OnStep | None = None,
) -> State:
    """As `sample`, from a solver's state to its last state: for EDICT, the pair of latents.

    Args:
        denoiser: What is asked on the way.
        state: The state to start from (`Solver.start`).
        times: (T + 1,), falling from noise to image.
        solver: What makes the steps.
        gradient: How the result is differentiated with respect to the state and
            `denoiser.inputs`.
        on_step: Told after each step.

    Raises:
        UserError: If a latent stops being finite, or the times do not fall.
    """
    chain = _make_chain(denoiser, times, solver, backwards=False, on_step=on_step)
    last = _integrate(gradient, chain, state)
    solver.check(last)
    return last


def trajectory(
    denoiser: Denoiser,
    x_0: Tensor,
    times: Tensor,
    *,
    solver: Solver = _DDIM,
    on_step: OnStep | None = None,
) -> dict[float, Tensor]:
    """Walk as `invert` does, and keep what is visited.

    Args:
        denoiser: What is asked on the way.
        x_0: The latent of the image (B, C, h, w).
        times: (T + 1,), falling from noise to image.
        solver: What makes the steps.
        on_step: Told after each step.

    Returns:
        The latent (B, C, h, w) at each of the `times`, from the image to the noise.
    """
    chain = _make_chain(denoiser, times, solver, backwards=True, on_step=on_step)
    states = chain.walk(solver.init(x_0))
    return {t: solver.final(state) for t, state in zip(reversed(chain.times), states, strict=True)}


def _make_chain(
    denoiser: Denoiser, times: Tensor, solver: Solver, *, backwards: bool, on_step: OnStep | None
) -> Chain:
    """The chain, whose times are checked."""
    visited = tuple(times.tolist())
    if len(visited) < 2 or any(
        s == t or (s > t and not solver.rises) for t, s in pairwise(visited)
    ):
        raise UserError(
            "a chain needs at least two times, falling from noise to image"
            f"{'' if solver.rises else ', and only DDPM can rise to a noisier one'}",
            "`schedule.times(50)` makes them",
        )
    return Chain(denoiser, visited, solver, backwards, on_step)


def _integrate(gradient: Gradient, chain: Chain, state: State) -> State:
    """The end of the chain. If it is not finite, one more walk says where that began."""
    last = gradient.integrate(chain, state)
    if is_finite(last):
        return last
    steps = len(chain)
    with torch.no_grad():
        for i, reached in enumerate(chain.replace_denoiser(chain.denoiser).walk(state)):
            if not is_finite(reached):
                raise not_finite(f"after step {i} of {steps}" if i else "at the start")
    raise not_finite("at the end of the chain")
