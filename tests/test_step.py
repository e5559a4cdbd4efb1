"""Solvers against the closed form: order of convergence, exact inversion, parity with diffusers."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler

from chainrule import DDIM, EDICT, UserError, invert, sample, sample_state
from chainrule.denoiser import Epsilon, Velocity
from chainrule.step import Step
from chainrule.step.edict import DriftWarning
from conftest import Gaussian, TinyNetwork, conditioned, latents, scaled_linear

STEPS = [DDIM(), EDICT(), EDICT(alternate=False)]


def gaussian(output=None) -> Gaussian:
    mean = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return Gaussian(mean, 0.5, scaled_linear(), output or Epsilon())


def grid(denoiser: Gaussian, count: int) -> torch.Tensor:
    """Times at which log(sigma / alpha) is evenly spaced, between two inner timesteps."""
    fine = torch.linspace(801, 101, 20_001, dtype=torch.float64)
    rho = torch.tensor([(denoiser.schedule.sigma(t) / denoiser.schedule.alpha(t)).log() for t in fine.tolist()])
    wanted = torch.linspace(rho[0].item(), rho[-1].item(), count + 1, dtype=torch.float64)
    return fine[torch.searchsorted(-rho.double(), -wanted).clamp(max=len(fine) - 1)]


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("output", [Epsilon(), Velocity()], ids=["epsilon", "velocity"])
def test_observed_order_is_the_declared_one(step: Step, output) -> None:
    denoiser = gaussian(output)
    x_T = latents()
    errors = []
    for count in (128, 256):
        times = grid(denoiser, count)
        exact = denoiser.flow(x_T, times[0].item(), times[-1].item())
        errors.append((sample(denoiser, x_T, times, step=step) - exact).norm().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(step.order, abs=0.15)


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_many_steps_reach_the_exact_flow(step: Step) -> None:
    denoiser, x_T = gaussian(), latents()
    times = denoiser.schedule.times(500)
    exact = denoiser.flow(x_T, times[0].item(), times[-1].item())
    assert (sample(denoiser, x_T, times, step=step) - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-2)], ids=str)
@pytest.mark.parametrize("alternate", [True, False])
@pytest.mark.filterwarnings("ignore::chainrule.step.edict.DriftWarning")
def test_edict_undoes_itself(network: TinyNetwork, dtype: torch.dtype, tolerance: float, alternate: bool) -> None:
    step, times = EDICT(alternate=alternate), network.schedule.times(20)
    network.layers.to(dtype)
    denoiser = conditioned(network)
    denoiser = type(denoiser)(network, tuple(value.to(dtype) for value in denoiser.conditioning))
    x_T = latents(dtype=dtype)
    pair = sample_state(denoiser, step.init(x_T), times, step=step)
    state = pair
    for t, s in zip(times[:-1].flip(0).tolist(), times[1:].flip(0).tolist(), strict=True):
        state = step.inverse(denoiser, state, t, s)
    assert (state[0] - x_T).norm() < tolerance * x_T.norm()
    x_0 = pair[0]
    there = invert(denoiser, x_0, times, step=step)
    assert (sample_state(denoiser, there, times, step=step)[0] - x_0).norm() < tolerance * x_0.norm()
    assert there[0].dtype == dtype


def test_ddim_inversion_is_approximate_and_improves_with_steps() -> None:
    denoiser, x_T = gaussian(), latents()
    errors = []
    for count in (20, 200):
        times = denoiser.schedule.times(count)
        (back,) = invert(denoiser, sample(denoiser, x_T, times), times)
        errors.append(((back - x_T).norm() / x_T.norm()).item())
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_parity_with_diffusers(steps: int, kind: str) -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind, clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    network = TinyNetwork({"epsilon": Epsilon(), "v_prediction": Velocity()}[kind])
    denoiser, x = conditioned(network), latents()
    ours = sample(denoiser, x, network.schedule.times(steps))
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, float(t), denoiser.conditioning), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-6)  # their table is in float32


def test_a_drifting_pair_warns_and_names_the_cure() -> None:
    network = TinyNetwork()
    with pytest.warns(DriftWarning, match=r"take more steps, a lower guidance scale or a lower mix"):
        sample(conditioned(network), latents(), network.schedule.times(3), step=EDICT(tolerance=0.05))


@pytest.mark.parametrize("mix", [0.0, -1.0, 1.2])
def test_impossible_mixing_is_refused(mix: float) -> None:
    with pytest.raises(UserError, match="above 0 and at most 1"):
        EDICT(mix=mix)
