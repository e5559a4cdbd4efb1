"""The times that a chain visits.

A `Spacing` is a scheduler's own: whole timesteps, whatever the schedule is. A `TimeGrid` is
even in some measure of the noise; its times need not be whole numbers, which networks take
as they come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from chainrule.diffusion.schedule import END, Schedule, Spacing
from chainrule.errors import UserError

__all__ = [
    "GRIDS",
    "Spacing",
    "TimeGrid",
    "add_jumps",
    "count_steps",
    "karras",
    "last_steps",
    "leading",
    "linspace",
    "log_snr",
    "quadratic",
    "repeat_steps",
    "time_at_share",
    "trailing",
    "uniform",
]

TimeGrid = Callable[[Schedule, int], Tensor]
"""(schedule, steps) -> the times (steps + 1,), from `Schedule.last` to `END`, float64."""


def leading(offset: int) -> Spacing:
    """Multiples of N // steps, plus `offset`: Stable Diffusion's own choice (with offset 1).

    >>> leading(1)(1000, 4).tolist()
    [751.0, 501.0, 251.0, 1.0]
    """

    return partial(_lead, offset)


def _lead(offset: int, training: int, steps: int) -> Tensor:
    grid = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (training // steps)
    return grid + min(offset, training - 1 - grid[0].item())


def trailing(training: int, steps: int) -> Tensor:
    """Evenly spaced with the noisiest timestep included (Lin et al. 2023, table 2).

    >>> trailing(1000, 4).tolist()
    [999.0, 749.0, 499.0, 249.0]

    Args:
        training: The number of training timesteps.
        steps: The number of sampling steps.
    """
    # numpy's arange, by which diffusers counts: where a time is halfway, its rounding decides
    step = (training - training / steps) - training
    return (training + torch.arange(steps, dtype=torch.float64) * step).round() - 1


def linspace(training: int, steps: int) -> Tensor:
    """Evenly spaced with both ends included.

    >>> linspace(1000, 4).tolist()
    [999.0, 666.0, 333.0, 0.0]

    Args:
        training: The number of training timesteps.
        steps: The number of sampling steps.
    """
    step = (training - 1) / max(steps - 1, 1)  # as numpy counts, and so diffusers
    grid = torch.arange(steps, dtype=torch.float64) * step
    if steps > 1:
        grid[-1] = training - 1
    return grid.round().flip(0)


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """The `TimeGrid` that is evenly spaced in t.

    Args:
        schedule: What times mean.
        steps: The number of steps.
    """
    return _space(schedule, steps, lambda t: t, lambda t: t, 0.0)


def quadratic(schedule: Schedule, steps: int) -> Tensor:
    """The `TimeGrid` that is evenly spaced in the root of t: finer towards the image.

    Song et al. 2021, appendix D.2.

    Args:
        schedule: What times mean.
        steps: The number of steps.
    """
    return _space(schedule, steps, math.sqrt, lambda root: root**2, 0.0)


def log_snr(schedule: Schedule, steps: int) -> Tensor:
    """The `TimeGrid` that is evenly spaced in log(alpha / sigma) (Lu et al. 2022).

    Args:
        schedule: What times mean.
        steps: The number of steps.
    """

    def measure(t: float) -> float:
        return math.log(_rho(schedule, t))

    return _space(schedule, steps, measure, lambda x: schedule.time(math.exp(x)))


def karras(schedule: Schedule, steps: int) -> Tensor:
    """The `TimeGrid` that is evenly spaced in (sigma / alpha)^(1/7), but for the step to `END`.

    Karras et al. 2022, eq. 5.

    Args:
        schedule: What times mean.
        steps: The number of steps.
    """

    def measure(t: float) -> float:
        return _rho(schedule, t) ** (1 / 7)

    return _space(schedule, steps, measure, lambda x: schedule.time(x**7))


GRIDS: dict[str, TimeGrid] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "log-snr": log_snr,
    "karras": karras,
}
"""The grids by name."""


def _rho(schedule: Schedule, t: float) -> float:
    return (schedule.sigma(t) / schedule.alpha(t)).item()


def _space(
    schedule: Schedule,
    steps: int,
    measure: Callable[[float], float],
    time: Callable[[float], float],
    clean: float | None = None,
) -> Tensor:
    """Times that are evenly spaced in a measure of time.

    In the place of the cleanest stands `END`: a chain goes there, and not to the first timestep and
    on. Where there is no noise, or nothing else, a measure of their ratio is taken a timestep
    further in.

    Args:
        schedule: Whose noisiest time is the first.
        steps: One less than there are times.
        measure: Of a time.
        time: The inverse of `measure`.
        clean: The cleanest time; None: the first whose ratio exists.
    """
    if steps < 1:
        raise UserError(f"a chain of {steps} steps is not possible", "choose 1 or more", "steps")
    last = schedule.last
    noisy = last if schedule.alpha(last) > 0 else last - 1.0
    clean = (0.0 if schedule.sigma(0.0) > 0 else 1.0) if clean is None else clean
    ends = measure(noisy), measure(clean)
    inner = torch.linspace(*ends, steps + 1, dtype=torch.float64)[1:-1]
    return torch.tensor([last, *map(time, inner.tolist()), END], dtype=torch.float64)


def count_steps(steps: int, share: float) -> int:
    """How many whole steps there are in a share of a chain: rounded down, as diffusers does.

    >>> count_steps(10, 0.75)
    7

    Args:
        steps: Of the whole chain.
        share: From 0 to 1.
    """
    return int(steps * share)


def last_steps(times: Tensor, strength: float) -> Tensor:
    """The times of the last steps of a chain.

    >>> last_steps(torch.tensor([751.0, 501.0, 251.0, 1.0, END]), 0.5).tolist()
    [251.0, 1.0, -1.0]

    Args:
        times: Of the whole chain.
        strength: The share of the steps, above 0 and at most 1.

    Raises:
        UserError: If that is less than one step.
    """
    if not 0.0 < strength <= 1.0:
        raise UserError(
            f"the strength is the share of the chain to redo, not {strength}",
            "choose a number above 0 and at most 1",
            "strength",
        )
    steps = len(times) - 1
    count = count_steps(steps, strength)
    if count == 0:
        raise UserError(
            f"a strength of {strength:g} is less than one of {steps} step{'s' * (steps > 1)}, and "
            "would change nothing",
            f"choose a strength of at least {math.ceil(100 / steps) / 100:g}, or more steps",
            "strength",
        )
    return times[-1 - count :]


def time_at_share(times: Tensor, share: float) -> float:
    """The last time at which the first steps of a chain ask the network.

    >>> time_at_share(torch.tensor([751.0, 501.0, 251.0, 1.0, END]), 0.5)
    501.0

    Args:
        times: Of the whole chain.
        share: Of its steps, from 0 to 1.

    Returns:
        The time; infinity if the share is less than one step.
    """
    steps = count_steps(len(times) - 1, share)
    return times[steps - 1].item() if steps else math.inf


def add_jumps(times: Tensor, length: int, repeats: int) -> Tensor:
    """A chain's times with RePaint's jumps (Lugmayr et al. 2022, algorithm 1 and appendix B).

    Going up by several steps at once is the same in distribution as by one after the other.

    >>> add_jumps(torch.tensor([4.0, 3.0, 2.0, 1.0, END]), 2, 2).tolist()
    [4.0, 3.0, 2.0, 1.0, 3.0, 2.0, 1.0, -1.0]

    Args:
        times: Of a chain that falls.
        length: After so many steps the chain goes back up by as many.
        repeats: It goes up one time less than this, and comes down again each time.
    """
    if length < 1 or repeats < 1:
        raise UserError(
            f"jumps of length {length}, made {repeats} times, are not possible",
            "choose a length and a number of 1 or more",
        )
    last = len(times) - 2  # the cleanest time at which the network is asked
    left = dict.fromkeys(range(last, length - 1, -length), repeats - 1)
    place, visited = 0, [0]
    while place < last + 1:
        up = left.get(place, 0) > 0
        if up:
            left[place] -= 1
        place += -length if up else 1
        visited.append(place)
    return times[visited]


def repeat_steps(times: Tensor, count: int) -> Tensor:
    """A chain's times with each step made several times, going back up between (time travel).

    Every step is repeated, that to the image too (`add_jumps` leaves it out, as RePaint does):
    the recurrence of Universal Guidance, FreeDoM and TFG.

    >>> repeat_steps(torch.tensor([4.0, 3.0, END]), 2).tolist()
    [4.0, 3.0, 4.0, 3.0, -1.0, 3.0, -1.0]

    Args:
        times: Of a chain that falls.
        count: How often each step is made, 1 or more.
    """
    if count < 1:
        raise UserError(f"steps made {count} times are no chain", "choose 1 or more")
    pairs = torch.stack([times[:-1], times[1:]], dim=1).repeat(1, count)
    return torch.cat([pairs.flatten()[:1], *(pair[1:] for pair in pairs)])
