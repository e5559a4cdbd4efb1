"""EDICT in each of its orders and couplings: against written-out algorithms, there and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chainrule import (
    EDICT,
    Backprop,
    Checkpoint,
    Reversible,
    UserError,
    invert,
    sample,
    sample_state,
)
from chainrule.diffusion.denoiser import Conditioned, Epsilon, Flow, Parameterization, Velocity
from chainrule.diffusion.guidance import ClassifierFree
from chainrule.diffusion.schedule import FlowMatching
from chainrule.diffusion.solvers.edict import Coupling, Turns
from chainrule.diffusion.time_grids import trailing
from conftest import TinyNetwork, conditioned, latents

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
TURNS, COUPLINGS = get_args(Turns), get_args(Coupling)


def guided(parameterization: Parameterization | None = None, scale: float = 3.0) -> ClassifierFree:
    network = TinyNetwork(parameterization)
    inner = conditioned(network)
    return ClassifierFree(inner, conditioned(network, seed=7).conditioning, scale)


# --- the algorithms, written out ------------------------------------------------------------------
# of networks that predict noise: move(latent, told, i) is a DDIM step of `latent` by the noise of `told`

Move = Callable[[Tensor, Tensor, int], Tensor]


def public_code(x: Tensor, steps: int, p: float, move: Move) -> list[Tensor]:
    """A list of two; in step i latent i mod 2 moves first; latent 0 is mixed first, always."""
    pair = [x.clone(), x.clone()]
    for i in range(steps):
        for turn in (0, 1):
            mover = (turn + i) % 2
            pair[mover] = move(pair[mover], pair[1 - mover], i)
        pair[0] = p * pair[0] + (1 - p) * pair[1]
        pair[1] = (1 - p) * pair[0] + p * pair[1]
    return pair


def printed(x: Tensor, steps: int, p: float, move: Move) -> list[Tensor]:
    """DOODL, eq. 5."""
    x, y = x.clone(), x.clone()
    for i in range(steps):
        x_mid = move(x, y, i)
        y_mid = move(y, x_mid, i)
        x = p * x_mid + (1 - p) * y_mid
        y = p * y_mid + (1 - p) * x
    return [x, y]


def alternating(x: Tensor, steps: int, p: float, move: Move) -> list[Tensor]:
    """One step as printed, the next with every x a y and every y an x."""
    pair = [x.clone(), x.clone()]
    for i in range(steps):
        one, other = (0, 1) if i % 2 == 0 else (1, 0)
        pair[one] = move(pair[one], pair[other], i)
        pair[other] = move(pair[other], pair[one], i)
        pair[one] = p * pair[one] + (1 - p) * pair[other]
        pair[other] = p * pair[other] + (1 - p) * pair[one]
    return pair if steps % 2 == 0 else pair[::-1]


WRITTEN = {"code": public_code, "printed": printed, "alternating": alternating}


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("turns", TURNS)
def test_each_order_is_the_algorithm_of_its_name(turns: Turns, steps: int) -> None:
    denoiser, x_T, p = guided(), latents(), 0.9
    times = denoiser.schedule.times(steps)
    alpha, sigma = denoiser.schedule.alpha, denoiser.schedule.sigma

    def move(latent: Tensor, told: Tensor, i: int) -> Tensor:
        t, s = times[i].item(), times[i + 1].item()
        eps = denoiser(told, t).eps
        return alpha(s) * (latent - sigma(t) * eps) / alpha(t) + sigma(s) * eps

    expected = WRITTEN[turns](x_T, steps, p, move)
    solver = EDICT(p, turns)
    found = sample_state(denoiser, solver.init(x_T), times, solver=solver)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_orders_differ_and_the_default_is_the_public_code() -> None:
    denoiser, x_T = guided(), latents()
    times = denoiser.schedule.times(4)
    made = {turns: sample(denoiser, x_T, times, solver=EDICT(turns=turns)) for turns in TURNS}
    assert torch.equal(sample(denoiser, x_T, times, solver=EDICT()), made["code"])
    assert len({tuple(x.flatten().tolist()) for x in made.values()}) == len(TURNS)


@given(
    steps=st.integers(1, 12),
    p=st.floats(0.5, 1.0),
    turns=st.sampled_from(TURNS),
    coupling=st.sampled_from(COUPLINGS),
    parameterization=st.sampled_from([Epsilon(), Velocity()]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_there_and_back_is_exact(
    steps: int,
    p: float,
    turns: Turns,
    coupling: Coupling,
    parameterization: Parameterization,
    seed: int,
) -> None:
    """From noise to image and back, and from image to noise and back; rounding grows by p^-2 a step."""
    denoiser, solver = guided(parameterization), EDICT(p, turns, coupling)
    times, x = denoiser.schedule.times(steps), latents(seed=seed)
    noisy = invert(denoiser, x, times, solver=solver)
    back = sample_state(denoiser, noisy, times, solver=solver)
    state = sample_state(denoiser, solver.init(x), times, solver=solver)
    for k in reversed(range(steps)):
        state = solver.inverse(denoiser, state, k, times[k].item(), times[k + 1].item())
    size = max(tensor.norm() for tensor in (x, *noisy))
    for found in (*back, *state):
        assert (found - x).norm() < 1e-12 * p ** (-2 * steps) * size


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("gradient", [Checkpoint(), Reversible(), Reversible(every=3)], ids=str)
def test_its_gradients_are_exact(
    gradient: Checkpoint | Reversible, turns: Turns, coupling: Coupling
) -> None:
    denoiser = guided(Velocity())

    def found(way: Backprop | Checkpoint | Reversible) -> Tensor:
        x_T = latents().requires_grad_()
        solver = EDICT(0.9, turns, coupling)
        x_0 = sample(denoiser, x_T, denoiser.schedule.times(5), solver=solver, gradient=way)
        return torch.autograd.grad(x_0.square().sum(), x_T)[0]

    torch.testing.assert_close(found(gradient), found(Backprop()), rtol=1e-8, atol=1e-10)


def test_the_coupling_is_one_for_networks_that_predict_noise_alone() -> None:
    for parameterization, same in ((Epsilon(), True), (Velocity(), False)):
        denoiser, x_T = guided(parameterization), latents()
        times = denoiser.schedule.times(5)
        one, other = (sample(denoiser, x_T, times, solver=EDICT(coupling=c)) for c in COUPLINGS)
        assert torch.allclose(one, other) is same


def test_coupling_in_eps_needs_some_picture_to_start_from() -> None:
    network = TinyNetwork(Flow())
    network.schedule = FlowMatching(1000, lambda training, steps: trailing(training, steps) + 1)
    denoiser = Conditioned(network, conditioned(network).conditioning)
    times = denoiser.schedule.times(3)
    assert denoiser.schedule.alpha(times[0].item()) == 0.0
    sample(denoiser, latents(), times, solver=EDICT())
    with pytest.raises(UserError, match=r'starts at pure noise: use coupling="output"'):
        sample(denoiser, latents(), times, solver=EDICT(coupling="eps"))


@pytest.mark.parametrize("field", ["turns", "coupling"])
def test_unknown_names_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=f"EDICT has no {field} 'swap': choose among"):
        EDICT(**{field: "swap"})
