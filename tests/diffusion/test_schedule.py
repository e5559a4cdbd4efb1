from __future__ import annotations

import pytest
import torch

from chainrule import UserError
from chainrule.diffusion.denoiser import Epsilon, Parameterization, Velocity
from chainrule.diffusion.schedule import END, FlowMatching
from chainrule.diffusion.time_grids import (
    leading,
    linspace,
    trailing,
)
from conftest import scaled_linear


@pytest.mark.parametrize("steps", [1, 7, 50, 333, 1000])
@pytest.mark.parametrize(
    "spacing",
    [leading(1), leading(0), trailing, linspace],
    ids=["leading1", "leading", "trailing", "linspace"],
)
def test_times_fall_from_noise_to_the_end(spacing, steps: int) -> None:
    times = scaled_linear(spacing).times(steps)
    assert len(times) == steps + 1
    assert times[-1] == END
    assert (times.diff() < 0).all()
    assert 0 <= times[-2] <= times[0] <= 999


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(UserError, match="choose between 1 and 1000"):
        scaled_linear().times(steps)


def test_variance_is_preserved_between_timesteps_too() -> None:
    schedule = scaled_linear()
    for t in (0.0, 10.5, 998.25, 999.0, END):
        torch.testing.assert_close(
            schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.tensor(1.0, dtype=torch.float64)
        )
    assert schedule.alpha(10.0) > schedule.alpha(10.5) > schedule.alpha(11.0)


@pytest.mark.parametrize("parameterization", [Epsilon(), Velocity()], ids=["epsilon", "velocity"])
def test_output_forms_agree(parameterization: Parameterization) -> None:
    """x_t = alpha x0 + sigma eps, F comes back, and x_s = a x_t + b F is DDIM."""
    schedule, (t, s) = scaled_linear(), (601.0, 401.0)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x, f = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64).unbind(0)
    prediction = parameterization.prediction(x, f, alpha, sigma)
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x)
    torch.testing.assert_close(parameterization.output(prediction, alpha, sigma), f)
    a, b = parameterization.coefficients(schedule, t, s)
    torch.testing.assert_close(
        a * x + b * f, schedule.alpha(s) * prediction.x0 + schedule.sigma(s) * prediction.eps
    )


def test_velocity_does_not_divide_by_a_vanishing_alpha() -> None:
    """A chain that starts at zero signal: finite coefficients, finite prediction."""
    schedule = scaled_linear(trailing)
    schedule.alpha_bar[-1] = 0.0
    a, b = Velocity().coefficients(schedule, 999.0, 899.0)
    x, f = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64).unbind(0)
    prediction = Velocity().prediction(x, f, schedule.alpha(999.0), schedule.sigma(999.0))
    assert all(torch.isfinite(value).all() for value in (a, b, *prediction))


@pytest.mark.parametrize(
    "schedule", [scaled_linear(), FlowMatching(1000, linspace)], ids=["vp", "flow"]
)
def test_the_time_of_a_ratio_is_where_it_is_that(schedule) -> None:
    for t in (1.0, 0.5, 10.25, 500.0, 998.75):
        assert schedule.time((schedule.sigma(t) / schedule.alpha(t)).item()) == pytest.approx(
            t, abs=1e-8
        )
    assert (schedule.time(0.0), schedule.time(-1.0), schedule.time(float("inf"))) == (
        0.0,
        0.0,
        schedule.last,
    )


@pytest.mark.parametrize(
    "schedule", [scaled_linear(), FlowMatching(1000, linspace)], ids=["vp", "flow"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_mixture_is_the_sum_to_the_last_bit(schedule, dtype: torch.dtype) -> None:
    x_0, eps = torch.randn(2, 3, 2, 4, 4, dtype=dtype).unbind(0)
    for t in (schedule.last, 301.0, 10.5, 0.0, END):
        mixed = schedule.mix(x_0, eps, t)
        assert torch.equal(mixed, schedule.alpha(t) * x_0 + schedule.sigma(t) * eps)
        assert mixed.dtype == dtype


def test_no_network_is_asked_at_the_end() -> None:
    schedule = scaled_linear()
    assert [schedule.network_time(t) for t in (END, 0.0, 10.5)] == [0.0, 0.0, 10.5]
