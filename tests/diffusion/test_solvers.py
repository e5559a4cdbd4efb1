"""Solvers against the closed form: order of convergence, exact inversion, parity with diffusers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import get_args

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchHeunDiscreteScheduler,
)

from chainrule import (
    DDIM,
    EDICT,
    RK4,
    AdamsBashforth,
    Adaptive,
    Backprop,
    Checkpoint,
    DPMSolver,
    Euler,
    Heun,
    UserError,
    invert,
    sample,
    sample_state,
)
from chainrule.diffusion.constraints import StepConstraint
from chainrule.diffusion.denoiser import Epsilon, Flow, Parameterization, Velocity
from chainrule.diffusion.ode import Original, Rho, Straight
from chainrule.diffusion.schedule import FlowMatching
from chainrule.diffusion.solvers import DDPM, RK3, Solver
from chainrule.diffusion.solvers.edict import DriftWarning, Turns
from chainrule.diffusion.time_grids import add_jumps, linspace, log_snr, uniform
from chainrule.noise import Noise, Stream
from conftest import Gaussian, TinyNetwork, conditioned, latents, scaled_linear

MULTISTEP = [AdamsBashforth(2), AdamsBashforth(3), AdamsBashforth(4)]
SOLVERS = [Euler(), Heun(), RK3(), RK4(), *MULTISTEP]
STEPS = [DDIM(), EDICT(), EDICT(turns="printed"), EDICT(turns="alternating"), DPMSolver(), *SOLVERS]


def gaussian(parameterization=None) -> Gaussian:
    mean = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return Gaussian(mean, 0.5, scaled_linear(), parameterization or Epsilon())


@lru_cache
def grid(count: int) -> torch.Tensor:
    """Times at which log(sigma / alpha) is evenly spaced, between two inner timesteps."""
    schedule = scaled_linear()
    first, last = ((schedule.sigma(t) / schedule.alpha(t)).log().item() for t in (801.0, 101.0))
    wanted = torch.linspace(first, last, count + 1, dtype=torch.float64).exp()
    return torch.tensor([schedule.time(rho) for rho in wanted.tolist()], dtype=torch.float64)


@pytest.mark.parametrize("solver", STEPS, ids=str)
@pytest.mark.parametrize("parameterization", [Epsilon(), Velocity()], ids=["epsilon", "velocity"])
def test_observed_order_is_the_declared_one(solver: Solver, parameterization) -> None:
    assert observed_order(solver, gaussian(parameterization)) == pytest.approx(
        solver.order, abs=0.15
    )


@pytest.mark.parametrize("coordinates", [Rho(), Straight()], ids=str)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_the_order_is_that_in_all_coordinates(solver, coordinates) -> None:
    assert observed_order(replace(solver, coordinates=coordinates), gaussian()) == pytest.approx(
        solver.order, abs=0.2
    )


@pytest.mark.parametrize(
    "solver", [Euler(Original()), Heun(Original()), AdamsBashforth(2, Original())], ids=str
)
def test_the_original_ode_is_solved_too(solver) -> None:
    """Up to order 2: the tabulated schedule has corners."""
    assert observed_order(solver, gaussian()) == pytest.approx(solver.order, abs=0.15)


def observed_order(solver: Solver, denoiser: Gaussian) -> float:
    """log2 of the ratio of the errors of a chain and one of twice as many steps."""
    x_T, errors = latents(), []
    for count in (128, 256):
        times = grid(count)
        exact = denoiser.flow(x_T, times[0].item(), times[-1].item())
        errors.append((sample(denoiser, x_T, times, solver=solver) - exact).norm().item())
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("solver", STEPS, ids=str)
def test_many_steps_reach_the_exact_flow(solver: Solver) -> None:
    denoiser, x_T = gaussian(), latents()
    times = denoiser.schedule.times(500)
    exact = denoiser.flow(x_T, times[0].item(), times[-1].item())
    assert (sample(denoiser, x_T, times, solver=solver) - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-2)], ids=str
)
@pytest.mark.parametrize("turns", get_args(Turns))
@pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
def test_edict_undoes_itself(
    network: TinyNetwork, dtype: torch.dtype, tolerance: float, turns: Turns
) -> None:
    solver, times = EDICT(turns=turns), network.schedule.times(20)
    network.layers.to(dtype)
    denoiser = conditioned(network)
    denoiser = type(denoiser)(network, tuple(value.to(dtype) for value in denoiser.conditioning))
    x_T = latents(dtype=dtype)
    pair = sample_state(denoiser, solver.init(x_T), times, solver=solver)
    state = pair
    steps = list(enumerate(itertools.pairwise(times.tolist())))
    for k, (t, s) in reversed(steps):
        state = solver.inverse(denoiser, state, k, t, s)
    assert (state[0] - x_T).norm() < tolerance * x_T.norm()
    x_0 = pair[0]
    there = invert(denoiser, x_0, times, solver=solver)
    assert (
        sample_state(denoiser, there, times, solver=solver)[0] - x_0
    ).norm() < tolerance * x_0.norm()
    assert there[0].dtype == dtype


def test_ddim_inversion_is_approximate_and_improves_with_steps() -> None:
    denoiser, x_T = gaussian(), latents()
    errors = []
    for count in (20, 200):
        times = denoiser.schedule.times(count)
        (back,) = invert(denoiser, sample(denoiser, x_T, times), times)
        errors.append(((back - x_T).norm() / x_T.norm()).item())
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("parameterization", [Epsilon(), Velocity()], ids=["epsilon", "velocity"])
def test_a_ddim_inversion_whose_steps_are_solved_comes_as_near_as_one_likes(
    parameterization: Parameterization,
) -> None:
    network = TinyNetwork(parameterization)
    denoiser, times = conditioned(network), network.schedule.times(50)
    x_0 = sample(denoiser, latents(), times)
    errors = []
    for solve in (1, 2, 4, 12):
        network.calls, solver = 0, DDIM(solve=solve)
        (x_T,) = invert(denoiser, x_0, times, solver=solver)
        assert network.calls == 50 * solve
        back = sample(denoiser, x_T, times, solver=solver)
        errors.append(((back - x_0).norm() / x_0.norm()).item())
    assert errors[1] < errors[0]
    assert errors[2] < 0.1 * errors[1]
    assert errors[3] < 1e-6


def test_no_calls_undo_nothing() -> None:
    with pytest.raises(UserError, match="in 0 calls: choose 1 or more"):
        DDIM(solve=0)


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_parity_with_diffusers(steps: int, kind: str) -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=kind,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    network = TinyNetwork({"epsilon": Epsilon(), "v_prediction": Velocity()}[kind])
    denoiser, x = conditioned(network), latents()
    ours = sample(denoiser, x, network.schedule.times(steps))
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, float(t), denoiser.conditioning), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-6)  # their table is in float32


def test_a_drifting_pair_warns_and_names_the_cure() -> None:
    network = TinyNetwork()
    with pytest.warns(
        DriftWarning, match=r"take more steps, a lower guidance scale or a lower mix"
    ):
        sample(
            conditioned(network), latents(), network.schedule.times(3), solver=EDICT(tolerance=0.05)
        )


@pytest.mark.parametrize("mix", [0.0, -1.0, 1.2])
def test_impossible_mixing_is_refused(mix: float) -> None:
    with pytest.raises(UserError, match="above 0 and at most 1"):
        EDICT(mix=mix)


@pytest.mark.parametrize("coordinates", [Rho(), Straight()], ids=str)
def test_euler_is_ddim(network: TinyNetwork, coordinates) -> None:
    denoiser, x_T, times = conditioned(network), latents(), network.schedule.times(9)
    euler = sample(denoiser, x_T, times, solver=Euler(coordinates))
    torch.testing.assert_close(euler, sample(denoiser, x_T, times), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_dpm_solver_equals_diffusers(steps: int, kind: str, final: str) -> None:
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=kind,
        steps_offset=1,
        lower_order_final=False,
        final_sigmas_type=final,
    )
    scheduler.set_timesteps(steps)
    network = TinyNetwork({"epsilon": Epsilon(), "v_prediction": Velocity()}[kind])
    network.schedule = scaled_linear(final=1.0 if final == "zero" else None)
    denoiser, x = conditioned(network), latents()
    times = torch.cat([scheduler.timesteps.double(), torch.tensor([-1.0], dtype=torch.float64)])
    ours = sample(denoiser, x, times, solver=DPMSolver())
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, float(t), denoiser.conditioning), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)  # their table is in float32


def test_heun_of_a_flow_equals_diffusers() -> None:
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(6)
    network = TinyNetwork(Flow())
    network.schedule = FlowMatching(1000, linspace)
    denoiser, x = conditioned(network), latents()
    times = torch.cat(
        [scheduler.timesteps.double().unique().flip(0), torch.tensor([-1.0], dtype=torch.float64)]
    )
    ours = sample(denoiser, x, times[:-1], solver=Heun())
    for t in scheduler.timesteps[:-1]:  # their last step, to no noise at all, is Euler's
        x = scheduler.step(network(x, float(t), denoiser.conditioning), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


def test_adams_bashforth_equals_torchdiffeq_after_its_start() -> None:
    """One step of order 4 from four even slopes: the coefficients of the textbooks."""
    from chainrule.diffusion.solvers.adams_bashforth import _weights

    assert _weights([0.0, -1.0, -2.0, -3.0]) == pytest.approx([55 / 24, -59 / 24, 37 / 24, -9 / 24])


def test_the_adaptive_solver_keeps_its_tolerance() -> None:
    denoiser, x_T = gaussian(), latents()
    times = torch.tensor([801.0, 101.0], dtype=torch.float64)
    exact = denoiser.flow(x_T, 801.0, 101.0)
    errors = [
        (sample(denoiser, x_T, times, solver=Adaptive(tolerance, tolerance)) - exact).norm().item()
        for tolerance in (1e-4, 1e-6, 1e-9)
    ]
    assert errors[0] < 1e-1
    assert errors[1] < 0.1 * errors[0]
    assert errors[2] < 0.01 * errors[1]


@pytest.mark.parametrize("tolerance", [0.0, -1.0])
def test_impossible_tolerances_are_refused(tolerance: float) -> None:
    with pytest.raises(UserError, match="must be above 0"):
        Adaptive(rtol=tolerance)


def test_impossible_orders_are_refused() -> None:
    with pytest.raises(UserError, match="not of order 5 here: choose order 2, 3 or 4"):
        AdamsBashforth(5)


@pytest.mark.parametrize(
    ("solver", "calls"),
    [
        (Euler(), 10),
        (Heun(), 20),
        (RK3(), 30),
        (RK4(), 40),
        (AdamsBashforth(2), 10),
        (AdamsBashforth(3), 11),
        (AdamsBashforth(4), 14),
        (DPMSolver(), 10),
    ],
    ids=str,
)
def test_network_calls_are_those_declared(solver: Solver, calls: int) -> None:
    network = TinyNetwork()
    sample(conditioned(network), latents(), network.schedule.times(10), solver=solver)
    assert network.calls == calls
    assert 0 <= calls - 10 * solver.calls <= 4  # what a multistep method starts with


@pytest.mark.parametrize("solver", [*SOLVERS, DPMSolver(), Adaptive()], ids=str)
def test_a_chain_from_pure_noise(solver: Solver) -> None:
    """Flow matching starts where alpha = 0 and ends where sigma = 0."""
    mean = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    denoiser = Gaussian(mean, 0.5, FlowMatching(1000, linspace), Flow())
    x_T, times = latents(), uniform(denoiser.schedule, 100)
    exact = denoiser.flow(x_T, 1000.0, -1.0)
    assert (sample(denoiser, x_T, times, solver=solver) - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("solver", [*SOLVERS, DPMSolver(), Adaptive()], ids=str)
def test_one_step_from_pure_noise_and_back(solver: Solver) -> None:
    """Neither end divides by zero."""
    mean = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    denoiser = Gaussian(mean, 0.5, FlowMatching(1000, linspace), Flow())
    assert (
        sample(denoiser, latents(), uniform(denoiser.schedule, 1), solver=solver).isfinite().all()
    )
    times = uniform(denoiser.schedule, 50)
    x_T = invert(denoiser, mean + 0.5 * latents(), times, solver=solver)[0]
    assert x_T.std() == pytest.approx(1.0, abs=0.25)


def test_the_adaptive_solver_does_not_ask_beyond_the_end() -> None:
    times: list[float] = []

    class Heard(Gaussian):
        def __call__(self, x: torch.Tensor, t: float):
            times.append(t)
            return super().__call__(x, t)

    known = gaussian()
    denoiser = Heard(known.mean, known.spread, scaled_linear(final=1.0))
    x_T, solver = latents(), Adaptive(1e-4, 1e-4)
    x_0 = sample(denoiser, x_T, torch.tensor([801.0, -1.0], dtype=torch.float64), solver=solver)
    assert min(times) >= 0.0
    assert max(times) <= 801.0
    exact = denoiser.flow(x_T, 801.0, -1.0)
    assert (x_0 - exact).norm() < 0.02 * exact.norm()


def test_latents_that_are_not_finite_are_named() -> None:
    denoiser = gaussian()
    with pytest.raises(UserError, match="no longer finite"):
        sample(denoiser, latents() * float("inf"), denoiser.schedule.times(2), solver=Adaptive())


def test_pure_noise_has_no_rho() -> None:
    mean = torch.zeros(2, 2, 4, 4, dtype=torch.float64)
    denoiser = Gaussian(mean, 0.5, FlowMatching(1000, linspace), Flow())
    with pytest.raises(UserError, match=r"x / alpha does not exist: use Straight\(\) instead"):
        sample(denoiser, latents(), uniform(denoiser.schedule, 4), solver=Euler(Rho()))


@pytest.mark.parametrize("solver", [*SOLVERS, DPMSolver(), Adaptive()], ids=str)
def test_inversion_leads_near_the_noise(solver: Solver) -> None:
    denoiser, x_T = gaussian(), latents()
    times = log_snr(denoiser.schedule, 20 if isinstance(solver, Adaptive) else 200)
    (back, *_) = invert(denoiser, sample(denoiser, x_T, times, solver=solver), times, solver=solver)
    assert (back - x_T).norm() < 0.05 * x_T.norm()


@pytest.mark.parametrize("solver", [*MULTISTEP, DPMSolver(), Heun()], ids=str)
def test_a_step_of_no_length_changes_nothing(solver: Solver) -> None:
    """A chain that visits t = 0 may end with one: END may be t = 0 again."""
    denoiser, x_T = gaussian(), latents()
    times = torch.tensor([801.0, 601.0, 401.0, 201.0, 0.0, -1.0], dtype=torch.float64)
    x_0 = sample(denoiser, x_T, times, solver=solver)
    torch.testing.assert_close(x_0, sample(denoiser, x_T, times[:-1], solver=solver))
    (back, *_) = invert(denoiser, x_0, times, solver=solver)
    assert back.isfinite().all()


# --- noise between steps -------------------------------------------------------------------------


def test_ddpm_has_the_posterior_of_diffusers() -> None:
    """The mean and the variance of a step of one training timestep."""
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    network = TinyNetwork()
    denoiser, x, noise = conditioned(network), latents(), Noise((3, 4)).stream("ddpm")
    scheduler.set_timesteps(1000)
    output = denoiser(x, 400.0).eps
    z = noise.normal(0, x.shape[1:]).double()
    mean = scheduler.step(output, 400, x, generator=torch.Generator().manual_seed(0)).prev_sample
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    deviation = scheduler._get_variance(400).sqrt().double()
    solver = DDPM(noise)
    (ours,) = solver.step(denoiser, solver.init(x), 0, 400.0, 399.0)
    torch.testing.assert_close(ours - deviation * z, mean - deviation * drawn, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        solver.variance(network.schedule, 400.0, 399.0).sqrt(), deviation, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_longer_steps_are_those_of_ddim_with_eta(eta: float) -> None:
    network = TinyNetwork()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(10)
    denoiser, x, noise = conditioned(network), latents(), Noise((3, 4)).stream("ddpm")
    z = noise.normal(0, x.shape[1:]).double()
    theirs = scheduler.step(denoiser(x, 500.0).eps, 500, x, eta=eta, variance_noise=z).prev_sample
    solver = DDPM(noise, eta)
    torch.testing.assert_close(
        solver.step(denoiser, solver.init(x), 0, 500.0, 400.0)[0], theirs, rtol=1e-5, atol=1e-5
    )


def test_without_its_noise_ddpm_is_ddim(network: TinyNetwork, monkeypatch) -> None:
    """Bit for bit; nothing is drawn, and with noise nothing for the last step, which adds none."""
    drawn: list[int] = []
    normal = Stream.normal
    monkeypatch.setattr(
        Stream, "normal", lambda self, k, shape: drawn.append(k) or normal(self, k, shape)
    )
    denoiser, stream = conditioned(network), Noise((0, 1)).stream("ddpm")
    for dtype in (torch.float32, torch.float64):
        for times in (network.schedule.times(20), network.schedule.times(7)[:-1]):
            x_T = latents(dtype=dtype)
            plain = sample(denoiser, x_T, times)
            assert torch.equal(sample(denoiser, x_T, times, solver=DDPM(stream, 0.0)), plain)
    assert drawn == []
    sample(denoiser, latents(), network.schedule.times(4), solver=DDPM(stream))
    assert drawn == [0, 1, 2]


@pytest.mark.parametrize(
    "parameterization", [Epsilon(), Flow()], ids=["variance preserving", "flow matching"]
)
def test_ddpm_keeps_the_right_spread_in_few_steps_and_over_jumps(parameterization) -> None:
    """Of data whose x0 is not certain, the smaller variance is right in the limit of many steps."""
    schedule = (
        FlowMatching(1000, linspace)
        if isinstance(parameterization, Flow)
        else scaled_linear(linspace)
    )
    denoiser = Gaussian(
        torch.zeros(1, 1, 1, 1, dtype=torch.float64), 0.5, schedule, parameterization
    )
    seeds = Noise(tuple(range(60)))
    x_T, noise = seeds.normal(0, (1, 8, 8)).double(), seeds.stream("ddpm")
    times = uniform(schedule, 400)
    times[0] = schedule.last - 1
    for grid in (times, add_jumps(times, 100, 3)):
        made = sample(denoiser, x_T, grid, solver=DDPM(noise))
        assert made.std().item() == pytest.approx(0.5, rel=0.03)


def test_going_up_adds_the_noise_of_training() -> None:
    noise, schedule = Noise(tuple(range(200))).stream("ddpm"), scaled_linear()
    x = torch.full((200, 1, 16, 16), 2.0, dtype=torch.float64)
    solver = DDPM(noise)
    (up,) = solver.step(gaussian(), solver.init(schedule.alpha(100.0) * x), 0, 100.0, 600.0)
    assert up.mean().item() == pytest.approx(2 * schedule.alpha(600.0).item(), rel=0.01)
    wanted = (
        schedule.sigma(600.0) ** 2
        - (schedule.alpha(600.0) / schedule.alpha(100.0) * schedule.sigma(100.0)) ** 2
    )
    assert up.var().item() == pytest.approx(wanted.item(), rel=0.02)


def test_the_noise_between_steps_belongs_to_the_image() -> None:
    network = TinyNetwork()
    times, solver = add_jumps(network.schedule.times(6), 2, 2), DDPM(Noise((7, 8)).stream("ddpm"))
    denoiser = conditioned(network)
    both = sample(denoiser, latents(), times, solver=solver)
    torch.testing.assert_close(
        sample(denoiser.select([1]), latents()[1:], times, solver=solver.select([1])), both[1:]
    )
    assert torch.equal(sample(denoiser, latents(), times, solver=solver), both)


def test_gradients_pass_through_noise_and_jumps() -> None:
    network = TinyNetwork()
    times, solver = add_jumps(network.schedule.times(4), 2, 2), DDPM(Noise((7, 8)).stream("ddpm"))
    x = latents().requires_grad_()
    found = [
        torch.autograd.grad(
            sample(conditioned(network), x, times, solver=solver, gradient=way).square().sum(), x
        )[0]
        for way in (Backprop(), Checkpoint())
    ]
    torch.testing.assert_close(*found)
    assert torch.autograd.gradcheck(
        lambda value: sample(conditioned(network), value, times, solver=solver), x
    )


def test_only_noise_can_rise_and_it_cannot_be_undone() -> None:
    network = TinyNetwork()
    times = network.schedule.times(4)
    with pytest.raises(UserError, match="only DDPM can rise"):
        sample(conditioned(network), latents(), add_jumps(times, 2, 2))
    with pytest.raises(UserError, match="cannot be undone: invert with EDICT"):
        invert(conditioned(network), latents(), times, solver=DDPM(Noise((0, 1)).stream("ddpm")))
    with pytest.raises(UserError, match="choose a number from 0 to 1"):
        DDPM(Noise((0,)).stream("ddpm"), 1.5)
    with pytest.raises(UserError, match="stream of its own"):
        DDPM(Noise((0,)))


# --- the number of a step -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Told(StepConstraint):
    """Changes nothing, and writes down which steps it is told of."""

    seen: list[tuple[int, float]] = field(default_factory=list)

    def __call__(self, x: torch.Tensor, s: float, k: int) -> torch.Tensor:
        self.seen.append((k, s))
        return x


STREAM = Noise((7, 8)).stream("ddpm")


@pytest.mark.parametrize("solver", [*STEPS, DDPM(STREAM), Told().on(DDIM())], ids=str)
def test_no_state_counts(solver: Solver) -> None:
    """What is remembered besides latents is what a clock shows, no whole number."""
    network = TinyNetwork()
    denoiser, x = conditioned(network), latents()
    times, states = network.schedule.times(5).tolist(), [solver.init(x)]
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        states.append(solver.step(denoiser, states[-1], k, t, s))
    memory = [tensor for state in states for tensor in state if tensor.shape != x.shape]
    assert all((tensor != tensor.round()).all() for tensor in memory)
    if not isinstance(solver, (AdamsBashforth, DPMSolver)):
        assert not memory


@pytest.mark.parametrize("gradient", [Backprop(), Checkpoint(), Checkpoint(keep=2)], ids=str)
def test_the_chain_says_which_step_it_is(gradient) -> None:
    """Rebuilt steps too, and those after a jump, which count like any other."""
    network, constraint = TinyNetwork(), Told()
    times = add_jumps(network.schedule.times(4), 2, 2)
    down = [(k, s) for k, (t, s) in enumerate(itertools.pairwise(times.tolist())) if s < t]
    x, solver = latents().requires_grad_(), constraint.on(DDPM(STREAM))
    x_0 = sample(conditioned(network), x, times, solver=solver, gradient=gradient)
    assert constraint.seen == down
    constraint.seen.clear()
    x_0.sum().backward()
    rebuilt = len(times) - 1 - gradient.keep if isinstance(gradient, Checkpoint) else 0
    assert constraint.seen == [(k, s) for k, s in reversed(down) if k < rebuilt]


def test_the_way_back_counts_down() -> None:
    seen: list[int] = []

    class Counted(DDIM):
        def inverse(self, denoiser, state, k, t, s):
            seen.append(k)
            return super().inverse(denoiser, state, k, t, s)

    network = TinyNetwork()
    invert(conditioned(network), latents(), network.schedule.times(4), solver=Counted())
    assert seen == [3, 2, 1, 0]


def test_the_first_draw_of_ddpm_can_be_chosen() -> None:
    network = TinyNetwork()
    denoiser, x = conditioned(network), latents()
    later, other = (
        solver.step(denoiser, (x,), k, 400.0, 300.0)[0]
        for solver, k in ((DDPM(STREAM, first=2), 1), (DDPM(STREAM), 3))
    )
    assert torch.equal(later, other)
    assert not torch.equal(later, DDPM(STREAM).step(denoiser, (x,), 1, 400.0, 300.0)[0])
