"""Sampling and inversion: the way from noise to image and back.

The one loop over time is `Chain.walk`. Whether graphs are built is up to who calls: in
`torch.no_grad()` there are none.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from chainrule.diffusion.arguments import (
    AnyGradient,
    AnySolver,
    Times,
    check_denoiser,
    check_latents,
    check_progress,
    check_state,
    check_times,
    resolve_gradient,
    resolve_solver,
)
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.backprop import Backprop
from chainrule.diffusion.gradient.base import Chain, OnStep, is_transformed
from chainrule.diffusion.gradient.replay import RandomNumbers
from chainrule.diffusion.schedule import END
from chainrule.diffusion.solvers.base import State, is_finite, not_finite
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.errors import UserError

_DDIM, _BACKPROP = DDIM(), Backprop()


def sample(
    denoiser: Denoiser,
    x_T: Tensor,
    times: Times,
    *,
    solver: AnySolver = _DDIM,
    gradient: AnyGradient = _BACKPROP,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk from noise to image.

    Args:
        denoiser: What is asked on the way.
        x_T: The starting noise (B, C, h, w); it is not changed.
        times: (T + 1,), falling from noise to image (`Schedule.times`), for a solver that `rises`
            perhaps rising too; or the number of steps, at the checkpoint's own times.
        solver: What makes the steps: a solver, its class or its name.
        gradient: How the result is differentiated with respect to `x_T` and `denoiser.inputs`:
            likewise.
        on_step: Told after each step.

    Returns:
        The latent at the end of the chain (B, C, h, w).

    Raises:
        UserError: If a latent stops being finite, the times do not fall, or an argument is none.
    """
    solver = resolve_solver(solver)
    check_denoiser(denoiser)
    check_latents(x_T, denoiser)
    visited = check_times(times, denoiser.schedule, solver)
    if visited[-1] != END:
        warnings.warn(
            f"the times end at {visited[-1]:g}, before the image ({END:g}), so some noise is left: "
            f"give the number of steps, or append {END:g} (sample_state walks a part of the way)",
            stacklevel=2,
        )
    state = sample_state(
        denoiser, solver.init(x_T), visited, solver=solver, gradient=gradient, on_step=on_step
    )
    return solver.final(state)


def invert(
    denoiser: Denoiser,
    x_0: Tensor,
    times: Times,
    *,
    solver: AnySolver = _DDIM,
    gradient: AnyGradient = _BACKPROP,
    on_step: OnStep | None = None,
) -> State:
    """Walk from image to noise.

    Exact, up to rounding, for a reversible solver; for others, the usual approximation.

    Args:
        denoiser: What is asked on the way.
        x_0: The latent of the image (B, C, h, w).
        times: (T + 1,), falling from noise to image; or the number of steps.
        solver: What makes the steps.
        gradient: How the result is differentiated with respect to `x_0` and `denoiser.inputs`.
        on_step: Told after each step.

    Returns:
        The solver's state at the noisy end (EDICT: the pair of latents), from which `sample_state`
        leads back.

    Raises:
        UserError: If the solver cannot be inverted, a latent stops being finite, the times do not
            fall, or an argument is none.
    """
    chain = _make_chain(denoiser, times, solver, backwards=True, on_step=on_step)
    check_latents(x_0, denoiser)
    return _integrate(gradient, chain, chain.solver.init(x_0))


def sample_state(
    denoiser: Denoiser,
    state: State | Tensor,
    times: Times,
    *,
    solver: AnySolver = _DDIM,
    gradient: AnyGradient = _BACKPROP,
    on_step: OnStep | None = None,
) -> State:
    """As `sample`, from a solver's state to its last state: for EDICT, the pair of latents.

    Args:
        denoiser: What is asked on the way.
        state: The state to start from (`Solver.start`); a latent stands for the one that `sample`
            starts from.
        times: (T + 1,), falling from noise to image; or the number of steps.
        solver: What makes the steps.
        gradient: How the result is differentiated with respect to the state and
            `denoiser.inputs`.
        on_step: Told after each step.

    Raises:
        UserError: If a latent stops being finite, the times do not fall, or an argument is none.
    """
    chain = _make_chain(denoiser, times, solver, backwards=False, on_step=on_step)
    last = _integrate(gradient, chain, check_state(state, denoiser, chain.solver))
    if not is_transformed():
        chain.solver.check(last)
    return last


def trajectory(
    denoiser: Denoiser,
    x_0: Tensor,
    times: Times,
    *,
    solver: AnySolver = _DDIM,
    on_step: OnStep | None = None,
) -> dict[float, Tensor]:
    """Walk as `invert` does, and keep what is visited.

    Args:
        denoiser: What is asked on the way.
        x_0: The latent of the image (B, C, h, w).
        times: (T + 1,), falling from noise to image; or the number of steps.
        solver: What makes the steps.
        on_step: Told after each step.

    Returns:
        The latent (B, C, h, w) at each of the `times`, from the image to the noise.

    Raises:
        UserError: If the times do not fall, or an argument is none.
    """
    chain = _make_chain(denoiser, times, solver, backwards=True, on_step=on_step)
    check_latents(x_0, denoiser)
    states = zip(reversed(chain.times), chain.walk(chain.solver.init(x_0)), strict=True)
    return {t: chain.solver.final(state) for t, state in states}


def _make_chain(
    denoiser: Denoiser,
    times: Times,
    solver: AnySolver,
    *,
    backwards: bool,
    on_step: OnStep | None,
) -> Chain:
    """The chain, whose parts are checked."""
    solver = resolve_solver(solver)
    check_denoiser(denoiser)
    check_progress(on_step)
    visited = check_times(times, denoiser.schedule, solver)
    return Chain(denoiser, visited, solver, backwards, on_step)


def _integrate(gradient: AnyGradient, chain: Chain, state: State) -> State:
    """The end of the chain. If it is not finite, one more walk says where that began."""
    gradient = resolve_gradient(gradient)
    random = RandomNumbers(chain, state)
    random.remember()
    last = gradient.integrate(chain, state)
    if is_transformed() or is_finite(last):  # vmap cannot ask
        return last
    steps = len(chain)
    with torch.no_grad(), random.replay(0):
        for i, reached in enumerate(replace(chain, on_step=None).walk(state)):
            if not is_finite(reached):
                raise not_finite(f"after step {i} of {steps}") if i else _bad_start()
    raise not_finite("at the end of the chain")


def _bad_start() -> UserError:
    return UserError(
        "the latents that the chain starts from (its noise) are not finite",
        "give finite ones, as model.noise([0]) makes",
    )
