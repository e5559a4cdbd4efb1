"""Noise schedules: how much picture and how much noise a latent holds at time t.

    x_t = alpha(t) x_0 + sigma(t) eps,    eps ~ N(0, I)

Everything else (rho = sigma / alpha, log-SNR) derives from these two. Times are the model's training timesteps
(0 .. N - 1, of flow matching 0 .. N) as float64; the clean end of a chain is the time -1, where alpha is what the
checkpoint's scheduler calls `final_alpha_cumprod`. Coefficients are float64 whatever the latents are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.errors import UserError

END = -1.0
"""The time of the finished image."""

Spacing = Callable[[int, int], Tensor]
"""(training steps, sampling steps) -> the times at which the network is called, from noise to image."""


class Schedule(ABC):
    """alpha(t) and sigma(t), and the times to visit. `last` is the noisiest time."""

    last: float

    @abstractmethod
    def alpha(self, t: float) -> Tensor:
        """The share of the picture at time `t`, a float64 scalar."""

    @abstractmethod
    def sigma(self, t: float) -> Tensor:
        """The share of the noise at time `t`, a float64 scalar."""

    @abstractmethod
    def time(self, rho: float) -> float:
        """The time at which sigma / alpha is `rho`, from 0 to `last`: 0 for less than there is at 0."""

    @abstractmethod
    def times(self, steps: int) -> Tensor:
        """The `steps + 1` times of a chain, falling from noise to `END`, float64: those of the checkpoint's scheduler.

        Raises UserError if `steps` is not between 1 and the number of training steps. For others, see `Grid`.
        """


@dataclass(frozen=True, eq=False)
class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1, tabulated at the training timesteps (DDPM, Stable Diffusion).

    `alpha_bar` (N,) is the cumulative product of the training schedule, alpha(t)^2 at t = 0 .. N - 1; between two
    timesteps its logarithm is interpolated. `final_alpha_bar` holds at `END`.
    """

    alpha_bar: Tensor
    final_alpha_bar: float
    spacing: Spacing

    def alpha(self, t: float) -> Tensor:
        return self._alpha_bar(t).sqrt()

    def sigma(self, t: float) -> Tensor:
        return (1.0 - self._alpha_bar(t)).sqrt()

    @property
    def last(self) -> float:  # type: ignore[override]
        return len(self.alpha_bar) - 1.0

    def time(self, rho: float) -> float:
        logs, wanted = self.alpha_bar.double().log(), -math.log1p(max(rho, 0.0) ** 2)
        upper = int((logs > wanted).sum())  # they fall
        if upper in (0, len(logs)):
            return min(upper, self.last)
        low, high = logs[upper - 1].item(), logs[upper].item()
        return upper - 1 + (wanted - low) / (high - low)

    def times(self, steps: int) -> Tensor:
        return _ended(self.spacing, len(self.alpha_bar), steps)

    def _alpha_bar(self, t: float) -> Tensor:
        if t < 0:
            return torch.tensor(self.final_alpha_bar, dtype=torch.float64)
        lower = min(int(t), len(self.alpha_bar) - 1)
        upper = min(lower + 1, len(self.alpha_bar) - 1)
        low, high = self.alpha_bar[lower].double(), self.alpha_bar[upper].double()
        return low if t == lower else torch.lerp(low.log(), high.log(), t - lower).exp()


@dataclass(frozen=True, eq=False)
class FlowMatching(Schedule):
    """alpha + sigma = 1, sigma(t) = t / N: straight lines between noise and image (Lipman et al. 2023; SD3, Flux)."""

    training: int
    spacing: Spacing

    def alpha(self, t: float) -> Tensor:
        return 1.0 - self.sigma(t)

    def sigma(self, t: float) -> Tensor:
        return torch.tensor(max(t, 0.0) / self.training, dtype=torch.float64)

    @property
    def last(self) -> float:  # type: ignore[override]
        return float(self.training)

    def time(self, rho: float) -> float:
        return self.training * (1.0 - 1.0 / (1.0 + max(rho, 0.0)))

    def times(self, steps: int) -> Tensor:
        return _ended(self.spacing, self.training, steps)


def _ended(spacing: Spacing, training: int, steps: int) -> Tensor:
    """The times that `spacing` visits, and the end."""
    if not 1 <= steps <= training:
        raise UserError(
            f"{steps} sampling steps are not possible: this model was trained with {training}, "
            f"so choose between 1 and {training}"
        )
    return torch.cat([spacing(training, steps).double().cpu(), torch.tensor([END], dtype=torch.float64)])


def leading(offset: int) -> Spacing:
    """Multiples of N // steps, plus `offset`: Stable Diffusion's own choice (with offset 1).

    >>> leading(1)(1000, 4).tolist()
    [751.0, 501.0, 251.0, 1.0]
    """

    def times(training: int, steps: int) -> Tensor:
        grid = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (training // steps)
        return grid + min(offset, training - 1 - grid[0].item())

    return times


def trailing(training: int, steps: int) -> Tensor:
    """Evenly spaced with the noisiest timestep included (Lin et al. 2023, table 2).

    >>> trailing(1000, 4).tolist()
    [999.0, 749.0, 499.0, 249.0]
    """
    return (training - torch.arange(steps, dtype=torch.float64) * training / steps).round() - 1


def linspace(training: int, steps: int) -> Tensor:
    """Evenly spaced with both ends included.

    >>> linspace(1000, 4).tolist()
    [999.0, 666.0, 333.0, 0.0]
    """
    return torch.linspace(0, training - 1, steps, dtype=torch.float64).round().flip(0)


Grid = Callable[[Schedule, int], Tensor]
"""(schedule, steps) -> the `steps + 1` times of a chain, falling from `Schedule.last` to `END`, float64.

Unlike those of a checkpoint's scheduler they need not be whole numbers, which the networks take as they come.
"""


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in t."""
    return _between(schedule, steps, lambda t: t, lambda t: t, 0.0)


def quadratic(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in the root of t: finer towards the image (Song et al. 2021, appendix D.2)."""
    return _between(schedule, steps, math.sqrt, lambda root: root**2, 0.0)


def log_snr(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in log(alpha / sigma) (Lu et al. 2022)."""
    return _between(schedule, steps, lambda t: math.log(_rho(schedule, t)), lambda x: schedule.time(math.exp(x)))


def karras(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in (sigma / alpha)^(1/7) (Karras et al. 2022, eq. 5), but for the step to `END`."""
    return _between(schedule, steps, lambda t: _rho(schedule, t) ** (1 / 7), lambda x: schedule.time(x**7))


def _rho(schedule: Schedule, t: float) -> float:
    return (schedule.sigma(t) / schedule.alpha(t)).item()


def _between(
    schedule: Schedule,
    steps: int,
    measure: Callable[[float], float],
    time: Callable[[float], float],
    clean: float | None = None,
) -> Tensor:
    """Times evenly spaced in a `measure` of time, whose inverse is `time`, from the noisiest to the one called `clean`.

    In the place of the last stands `END`: a chain goes there, and not to the first timestep and on. Where there is no
    noise, or nothing else, a measure of their ratio is taken a timestep further in.
    """
    if steps < 1:
        raise UserError(f"a chain of {steps} steps is not possible: choose 1 or more")
    noisy = schedule.last if schedule.alpha(schedule.last) > 0 else schedule.last - 1.0
    clean = (0.0 if schedule.sigma(0.0) > 0 else 1.0) if clean is None else clean
    inner = torch.linspace(measure(noisy), measure(clean), steps + 1, dtype=torch.float64)[1:-1]
    return torch.tensor([schedule.last, *(time(value) for value in inner.tolist()), END], dtype=torch.float64)


def tail(times: Tensor, strength: float) -> Tensor:
    """The end of a chain: its last `strength` (above 0, at most 1) of the steps, at least one.

    >>> tail(torch.tensor([751.0, 501.0, 251.0, 1.0, END]), 0.5).tolist()
    [251.0, 1.0, -1.0]
    """
    if not 0.0 < strength <= 1.0:
        raise UserError(f"the strength is the share of the chain to redo, above 0 and at most 1, not {strength}")
    return times[-1 - max(1, round(strength * (len(times) - 1))) :]


def during(times: Tensor, share: float) -> float:
    """The last time at which the first `share` of a chain's steps asks the network; infinity if that is no step.

    >>> during(torch.tensor([751.0, 501.0, 251.0, 1.0, END]), 0.5)
    501.0
    """
    steps = round(share * (len(times) - 1))
    return times[steps - 1].item() if steps else math.inf


def add_jumps(times: Tensor, length: int, repeats: int) -> Tensor:
    """A chain's `times` with RePaint's jumps (Lugmayr et al. 2022, algorithm 1 and appendix B).

    After each `length` steps the chain goes back up by as many, `repeats` - 1 times, and comes down again. Going up
    by several steps at once is the same in distribution as by one after the other.

    >>> add_jumps(torch.tensor([4.0, 3.0, 2.0, 1.0, END]), 2, 2).tolist()
    [4.0, 3.0, 2.0, 1.0, 3.0, 2.0, 1.0, -1.0]
    """
    if length < 1 or repeats < 1:
        raise UserError(f"jumps have a length and a number of 1 or more, not {length} and {repeats}")
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
