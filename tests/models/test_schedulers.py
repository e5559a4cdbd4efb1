"""diffusers' schedulers: their times, what stands in for them, and which are refused."""

from __future__ import annotations

import pytest
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
)

import chainrule
from chainrule import UserError
from chainrule.models.schedulers import read_parameterization, read_schedule
from tiny import BETAS, family

TIMES = [
    (DPMSolverMultistepScheduler(**BETAS), [999, 749, 500, 250]),
    (EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"), [999, 749, 499, 249]),
    (HeunDiscreteScheduler(**BETAS), [999, 666, 333, 0]),
    (LCMScheduler(**BETAS), [999, 759, 499, 259]),
]


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


def test_times_that_are_visited_twice_are_refused() -> None:
    schedule = read_schedule(DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True))
    assert len(schedule.times(20)) == 21
    with pytest.raises(UserError, match=r"50 sampling steps .* rounded, .* visits a time twice"):
        schedule.times(50)


CONTINUOUS = EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
OTHERS = [
    (
        EDMEulerScheduler(),
        "the scheduler EDMEulerScheduler of this checkpoint is not supported: give",
    ),
    (FlowMatchEulerDiscreteScheduler(), "the scheduler FlowMatchEulerDiscreteScheduler"),
    (CONTINUOUS, "with these settings"),
]


@pytest.mark.parametrize(("scheduler", "message"), OTHERS, ids=lambda value: type(value).__name__)
def test_other_processes_are_refused(scheduler, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_schedule(scheduler)


def test_other_predictions_are_refused() -> None:
    scheduler = DPMSolverMultistepScheduler(**BETAS, prediction_type="sample")
    with pytest.raises(UserError, match="predicts 'sample' is not supported: epsilon and v_pred"):
        read_parameterization(scheduler)


def test_flow_matching_needs_its_scheduler() -> None:
    found = family("Stable Diffusion 3")
    found.scheduler = EulerDiscreteScheduler()
    with pytest.raises(UserError, match="EulerDiscreteScheduler is not supported for flow match"):
        chainrule.load(found)
