"""Noise schedules: how much picture and how much noise a latent holds at time t.

    x_t = alpha(t) x_0 + sigma(t) eps,    eps ~ N(0, I)

Everything else (rho = sigma / alpha, log-SNR) derives from these two. Times are the model's
training timesteps (0 .. N - 1, of flow matching 0 .. N) as float64. The clean end of a
chain is the time -1, where alpha is what the checkpoint's scheduler calls
`final_alpha_cumprod`. Coefficients are float64 whatever the latents are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.brief import Brief
from chainrule.errors import UserError

END = -1.0
"""The time of the finished image."""

Spacing = Callable[[int, int], Tensor]
"""(training steps, sampling steps) -> the times at which the network is called, falling."""


class Schedule(Brief, ABC):
    """alpha(t) and sigma(t), and the times to visit."""

    @property
    @abstractmethod
    def last(self) -> float:
        """The noisiest time."""

    @abstractmethod
    def alpha(self, t: float) -> Tensor:
        """The share of the picture at time `t`, a float64 scalar."""

    @abstractmethod
    def sigma(self, t: float) -> Tensor:
        """The share of the noise at time `t`, a float64 scalar."""

    @abstractmethod
    def time(self, rho: float) -> float:
        """The time at which sigma / alpha is `rho`, from 0 (for less too) to `last`."""

    @abstractmethod
    def times(self, steps: int) -> Tensor:
        """The times of a chain that the checkpoint's scheduler would visit.

        For others, see `chainrule.diffusion.time_grids`.

        Returns:
            (steps + 1,), falling from noise to `END`, float64.

        Raises:
            UserError: If `steps` is not between 1 and the number of training steps.
        """

    def mix(self, x_0: Tensor, eps: Tensor, t: float) -> Tensor:
        """x_t = alpha(t) x_0 + sigma(t) eps.

        Args:
            x_0: The picture's latents (B, C, h, w).
            eps: The noise, as `x_0`.
            t: The time.
        """
        return self.alpha(t) * x_0 + self.sigma(t) * eps

    def network_time(self, t: float) -> float:
        """The time at which a network is asked in place of `t`: no network was trained at `END`."""
        return max(t, 0.0)


@dataclass(frozen=True, eq=False)
class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1, tabulated at the training timesteps (DDPM, Stable Diffusion).

    Args:
        alpha_bar: (N,), the cumulative product of the training schedule: alpha(t)^2 at
            t = 0 .. N - 1. Between two timesteps its logarithm is interpolated.
        final_alpha_bar: alpha^2 at `END`.
        spacing: The scheduler's times.
    """

    alpha_bar: Tensor
    final_alpha_bar: float
    spacing: Spacing

    def alpha(self, t: float) -> Tensor:
        return self._alpha_bar(t).sqrt()

    def sigma(self, t: float) -> Tensor:
        return (1.0 - self._alpha_bar(t)).sqrt()

    @property
    def last(self) -> float:
        return len(self.alpha_bar) - 1.0

    def time(self, rho: float) -> float:
        logs, wanted = self.alpha_bar.double().log(), -math.log1p(max(rho, 0.0) ** 2)
        upper = int((logs > wanted).sum())  # they fall
        if upper in (0, len(logs)):
            return min(upper, self.last)
        low, high = logs[upper - 1].item(), logs[upper].item()
        return upper - 1 + (wanted - low) / (high - low)

    def times(self, steps: int) -> Tensor:
        return _space(self.spacing, len(self.alpha_bar), steps)

    def _alpha_bar(self, t: float) -> Tensor:
        if t < 0:
            return torch.tensor(self.final_alpha_bar, dtype=torch.float64)
        lower = min(int(t), len(self.alpha_bar) - 1)
        upper = min(lower + 1, len(self.alpha_bar) - 1)
        low, high = self.alpha_bar[lower].double(), self.alpha_bar[upper].double()
        return low if t == lower else torch.lerp(low.log(), high.log(), t - lower).exp()


@dataclass(frozen=True, eq=False)
class FlowMatching(Schedule):
    """alpha + sigma = 1, sigma(t) = t / N: straight lines (Lipman et al. 2023; SD3, Flux).

    Args:
        training: N, the number of training timesteps.
        spacing: The scheduler's times.
    """

    training: int
    spacing: Spacing

    def alpha(self, t: float) -> Tensor:
        return 1.0 - self.sigma(t)

    def sigma(self, t: float) -> Tensor:
        return torch.tensor(self.network_time(t) / self.training, dtype=torch.float64)

    @property
    def last(self) -> float:
        return float(self.training)

    def time(self, rho: float) -> float:
        return self.training * (1.0 - 1.0 / (1.0 + max(rho, 0.0)))

    def times(self, steps: int) -> Tensor:
        return _space(self.spacing, self.training, steps)


def _space(spacing: Spacing, training: int, steps: int) -> Tensor:
    """The times that `spacing` visits, and the end."""
    if not 1 <= steps <= training:
        raise UserError(
            f"{steps} sampling steps are not possible: this model was trained with {training}",
            f"choose between 1 and {training}",
            "steps",
        )
    end = torch.tensor([END], dtype=torch.float64)
    return torch.cat([spacing(training, steps).double().cpu(), end])
