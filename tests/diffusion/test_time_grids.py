"""The times of a chain: even in what they say, from the noisiest to the end; RePaint's jumps."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import DDIMScheduler

from chainrule import UserError
from chainrule.diffusion.schedule import END, FlowMatching
from chainrule.diffusion.time_grids import (
    GRIDS,
    add_jumps,
    karras,
    last_steps,
    leading,
    linspace,
    log_snr,
    quadratic,
    time_at_share,
    trailing,
    uniform,
)
from conftest import scaled_linear


@pytest.mark.parametrize("make", [*GRIDS.values()], ids=[*GRIDS])
@pytest.mark.parametrize(
    "schedule",
    [scaled_linear(), scaled_linear(final=1.0), FlowMatching(1000, linspace)],
    ids=["vp", "vp, 0", "flow"],
)
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_grids_fall_from_the_noisiest_time_to_the_end(make, schedule, steps: int) -> None:
    times = make(schedule, steps)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (schedule.last, -1.0)
    assert (times.diff() < 0).all()


def test_grids_are_even_in_their_measure() -> None:
    schedule = scaled_linear()

    def rho(times: torch.Tensor) -> torch.Tensor:
        return torch.stack([schedule.sigma(t) / schedule.alpha(t) for t in times.tolist()])

    measures = {uniform: lambda t: t, quadratic: lambda t: t.clamp(min=0).sqrt()}
    measures |= {log_snr: lambda t: rho(t).log(), karras: lambda t: rho(t) ** (1 / 7)}
    for make, measure in measures.items():
        gaps = measure(make(schedule, 12)[:-1]).diff()
        torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-8, atol=1e-10)


def test_a_grid_of_no_steps_is_refused() -> None:
    with pytest.raises(UserError, match="0 steps is not possible"):
        karras(scaled_linear(), 0)


@pytest.mark.parametrize(("length", "repeats"), [(0, 2), (2, 0)])
def test_jumps_of_nothing_are_refused(length: int, repeats: int) -> None:
    with pytest.raises(UserError, match="1 or more"):
        add_jumps(scaled_linear().times(5), length, repeats)


def test_jumps_visit_what_repaint_does() -> None:
    times = torch.tensor([*range(9, -1, -1), -1.0], dtype=torch.float64)
    visited = add_jumps(times, 3, 2).tolist()
    down = [b for a, b in itertools.pairwise(visited) if b < a]
    assert len(down) == 10 + 3 * 3  # three times back by three steps
    assert [(a, b) for a, b in itertools.pairwise(visited) if b > a] == [(6, 9), (3, 6), (0, 3)]
    assert add_jumps(times, 3, 1).tolist() == times.tolist()


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_spacing_is_diffusers_own_at_every_number_of_steps(spacing: str) -> None:
    """But where diffusers itself visits one time more than it is asked to."""
    grid = {"leading": leading(1), "trailing": trailing, "linspace": linspace}[spacing]
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=int(spacing == "leading"))
    for steps in range(1, 1000):
        scheduler.set_timesteps(steps)
        theirs = scheduler.timesteps.tolist()
        if len(theirs) == steps:
            assert grid(1000, steps).tolist() == theirs


def test_a_share_of_the_steps() -> None:
    times = torch.tensor([751.0, 501.0, 251.0, 1.0, END])
    assert last_steps(times, 1.0).tolist() == times.tolist()
    assert last_steps(times, 0.49).tolist() == [1.0, END]
    with pytest.raises(UserError, match="less than one of 4 steps"):
        last_steps(times, 0.24)
    assert time_at_share(times, 1.0) == 1.0
    assert time_at_share(times, 0.0) == float("inf")


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.5])
def test_impossible_strengths_are_refused(strength: float) -> None:
    with pytest.raises(UserError, match="above 0 and at most 1") as caught:
        last_steps(scaled_linear().times(5), strength)
    assert caught.value.field == "strength"
