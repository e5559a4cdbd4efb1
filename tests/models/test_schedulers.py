"""diffusers' schedulers: their times, what stands in for them, and which are refused."""

from __future__ import annotations

import inspect
import warnings

import diffusers
import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

import chainrule
from chainrule import UserError
from chainrule.models.schedulers import (
    ADDS_NOISE,
    DDIM_TIMES,
    NOISE_GRIDS,
    OWN_TIMES,
    SchedulerWarning,
    read_flow_schedule,
    read_parameterization,
    read_schedule,
)
from tiny import BETAS, family

TIMES = [
    (DPMSolverMultistepScheduler(**BETAS), [999, 749, 500, 250]),
    (EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"), [999, 749, 499, 249]),
    (HeunDiscreteScheduler(**BETAS), [999, 666, 333, 0]),
    (LCMScheduler(**BETAS), [999, 759, 499, 259]),
]

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.models.schedulers.SchedulerWarning")


@pytest.mark.parametrize(("scheduler", "times"), TIMES, ids=lambda value: type(value).__name__)
def test_each_keeps_its_own_times(scheduler, times: list[int]) -> None:
    """One that calls the network twice a step has DDIM's."""
    schedule = read_schedule(scheduler)
    assert schedule.times(4).tolist() == [*times, -1]
    assert schedule.sigma(-1.0) == 0


def test_more_steps_than_it_was_distilled_for_are_refused() -> None:
    """A consistency model has 50 times."""
    with pytest.raises(UserError, match="60 sampling steps are not possible"):
        read_schedule(LCMScheduler(**BETAS)).times(60)


def parameters(kind: str) -> set[str]:
    return set(inspect.signature(getattr(diffusers, kind).__init__).parameters)


STEPS = st.one_of(st.integers(1, 60), st.integers(61, 1000))
KINDS = sorted(OWN_TIMES | DDIM_TIMES)
SPACINGS = st.sampled_from(["linspace", "leading", "trailing", None])


@settings(max_examples=25, deadline=None)
@example("DPMSolverMultistepScheduler", "use_karras_sigmas", None, 50)
@example("DPMSolverMultistepScheduler", "use_lu_lambdas", None, 50)
@example("UniPCMultistepScheduler", "use_karras_sigmas", None, 60)
@example("HeunDiscreteScheduler", "use_karras_sigmas", None, 30)
@example("DPMSolverMultistepScheduler", None, "linspace", 1000)
@example("DPMSolverMultistepScheduler", None, "leading", 1000)
@given(st.sampled_from(KINDS), st.sampled_from([None, *NOISE_GRIDS]), SPACINGS, STEPS)
def test_all_step_counts_of_all_schedulers(
    kind: str, grid: str | None, spacing: str | None, steps: int
) -> None:
    """Times fall, are the scheduler's own to its rounding, and the noise there is its own."""
    known, options = parameters(kind), dict(BETAS)
    if grid in known:
        options[grid] = True
    if "timestep_spacing" in known and spacing:
        options["timestep_spacing"] = spacing
    scheduler = getattr(diffusers, kind)(**options)
    schedule = read_schedule(scheduler)
    spaces_noise = grid in known
    try:
        times = schedule.times(steps)
    except UserError:
        all_alike = kind in OWN_TIMES and options.get("timestep_spacing") == "leading"
        assert (kind == "LCMScheduler" and steps > 50) or (all_alike and steps == 1000)
        return
    assert times.shape == (steps + 1,)
    assert (times.diff() < 0).all()
    assert times[-2] >= 0
    assert times[-1] == -1
    if not spaces_noise and kind not in OWN_TIMES:
        return
    scheduler.set_timesteps(steps)
    if spaces_noise:
        own = scheduler.sigmas[scheduler.sigmas > 0].unique_consecutive()[:steps].double()
        ours = [(schedule.sigma(t) / schedule.alpha(t)).item() for t in times[:-1].tolist()]
        torch.testing.assert_close(torch.tensor(ours).double(), own, rtol=1e-4, atol=1e-4)
    if kind in OWN_TIMES:
        assert (times[:-1] - scheduler.timesteps[:steps]).abs().max() <= 1.01


def test_rescaled_to_no_signal_the_first_time_is_the_last() -> None:
    scheduler = EulerDiscreteScheduler(
        **BETAS,
        rescale_betas_zero_snr=True,
        use_karras_sigmas=True,
        prediction_type="v_prediction",
    )
    times = read_schedule(scheduler).times(10)
    assert times[0] == 999
    assert (times.diff() < 0).all()


NOISY = {
    **{kind: {} for kind in sorted(ADDS_NOISE)},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
}
CLIPPING = [
    (DDIMScheduler, {"clip_sample": True}, "clip_sample"),
    (DDPMScheduler, {"clip_sample": False, "thresholding": True}, "thresholding"),
    (DPMSolverMultistepScheduler, {"thresholding": True}, "thresholding"),
    (HeunDiscreteScheduler, {"clip_sample": True}, "clip_sample"),
]
PLAIN = [
    PNDMScheduler(**BETAS),
    DDIMScheduler(**BETAS, clip_sample=False),
    DPMSolverMultistepScheduler(**BETAS),
    EulerDiscreteScheduler.from_config({**BETAS, "clip_sample": True}),  # which it does not heed
]


@pytest.mark.parametrize("kind", NOISY)
def test_noise_that_is_left_out_is_said(kind: str) -> None:
    with pytest.warns(SchedulerWarning, match=f"this checkpoint's {kind} adds noise"):
        read_schedule(getattr(diffusers, kind)(**BETAS, **NOISY[kind]))


def test_the_noise_of_flow_matching_is_said() -> None:
    with pytest.warns(SchedulerWarning, match="FlowMatchEulerDiscreteScheduler adds noise"):
        read_flow_schedule(FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), 16)


@pytest.mark.parametrize(("kind", "options", "setting"), CLIPPING)
def test_clipping_that_is_left_out_is_said(kind: type, options: dict, setting: str) -> None:
    with pytest.warns(SchedulerWarning, match=rf"clips the predicted image .* \({setting}\)"):
        read_schedule(kind(**BETAS, **options))


@pytest.mark.parametrize("scheduler", PLAIN, ids=lambda value: type(value).__name__)
def test_nothing_is_said_of_those_without(scheduler) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_schedule(scheduler)
        read_flow_schedule(FlowMatchEulerDiscreteScheduler(), 16)


CONTINUOUS = EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
FLOW = DPMSolverMultistepScheduler(use_flow_sigmas=True)
OTHERS = [
    (
        EDMEulerScheduler(),
        "the scheduler EDMEulerScheduler of this checkpoint is not supported: give",
    ),
    (CMStochasticIterativeScheduler(), "CMStochasticIterativeScheduler of this checkpoint is not"),
    (FlowMatchEulerDiscreteScheduler(), "the scheduler FlowMatchEulerDiscreteScheduler"),
    (CONTINUOUS, "with timestep_type='continuous'"),
    (FLOW, "with use_flow_sigmas=True"),
    (EulerDiscreteScheduler(interpolation_type="log_linear"), "interpolation_type='log_linear'"),
    (DDIMScheduler(timestep_spacing="uniform"), r"not possible \(timestep_spacing is 'uniform'\)"),
    (DDIMScheduler(trained_betas=[0.0, 0.0, 0.1]), "its noise does not rise with time"),
]


@pytest.mark.parametrize(("scheduler", "message"), OTHERS, ids=lambda value: type(value).__name__)
def test_other_processes_are_refused(scheduler, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_schedule(scheduler)


def test_noise_beyond_the_table_is_refused() -> None:
    scheduler = EulerDiscreteScheduler(**BETAS, use_karras_sigmas=True, sigma_max=700.0)
    with pytest.raises(UserError, match="more or less noise than the network was trained with"):
        read_schedule(scheduler).times(10)


def test_other_predictions_are_refused() -> None:
    scheduler = DPMSolverMultistepScheduler(**BETAS, prediction_type="sample")
    with pytest.raises(UserError, match="predicts 'sample' is not supported: choose a checkpoint"):
        read_parameterization(scheduler)


def test_flow_matching_needs_its_scheduler() -> None:
    found = family("Stable Diffusion 3")
    found.scheduler = EulerDiscreteScheduler()
    with pytest.raises(UserError, match="EulerDiscreteScheduler is not supported for flow match"):
        chainrule.load(found)
    found.scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    with pytest.raises(UserError, match="not supported with invert_sigmas"):
        chainrule.load(found)
