"""What a diffusion network says of a noisy latent, in the one form that everything else uses.

A network is trained to predict the noise or a velocity; these are the same knowledge written
differently, and this module is the only place that converts one into another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.diffusion.schedule import Schedule


class Prediction(NamedTuple):
    """A network's guess of the clean latent and of the noise, each (B, C, h, w): x_t = alpha x0 + sigma eps.

    Both are kept: recomputing one from the other loses precision, and some methods break their tie on purpose.
    """

    x0: Tensor
    eps: Tensor

    def combine(self, other: Prediction, rule: Callable[[Tensor, Tensor], Tensor]) -> Prediction:
        """`rule` applied to both parts of this prediction and another."""
        return Prediction(rule(self.x0, other.x0), rule(self.eps, other.eps))


class Parameterization(ABC):
    """What a network's raw output F is, and the first-order step written in it: x_s = a x_t + b F.

    No coefficient divides by an alpha that may be zero unless F is the noise itself.
    """

    @abstractmethod
    def prediction(self, x: Tensor, f: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """The raw output `f` at the noisy latent `x`, both (B, C, h, w), as a prediction."""

    @abstractmethod
    def output(self, prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The raw output that a (possibly guided) prediction stands for, (B, C, h, w)."""

    @abstractmethod
    def coefficients(self, schedule: Schedule, t: float, s: float) -> tuple[Tensor, Tensor]:
        """(a, b) of the step from `t` to `s`, float64 scalars."""


class Epsilon(Parameterization):
    """F = eps, the noise (DDPM, Stable Diffusion 1)."""

    def prediction(self, x: Tensor, f: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        return Prediction((x - sigma * f) / alpha, f)

    def output(self, prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
        return prediction.eps

    def coefficients(self, schedule: Schedule, t: float, s: float) -> tuple[Tensor, Tensor]:
        a = schedule.alpha(s) / schedule.alpha(t)
        return a, schedule.sigma(s) - a * schedule.sigma(t)


class Velocity(Parameterization):
    """F = alpha eps - sigma x0, the velocity of a variance-preserving process (Salimans & Ho 2022)."""

    def prediction(self, x: Tensor, f: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        return Prediction(alpha * x - sigma * f, sigma * x + alpha * f)

    def output(self, prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * prediction.eps - sigma * prediction.x0

    def coefficients(self, schedule: Schedule, t: float, s: float) -> tuple[Tensor, Tensor]:
        alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        return alpha_s * alpha_t + sigma_s * sigma_t, sigma_s * alpha_t - alpha_s * sigma_t


class Flow(Parameterization):
    """F = eps - x0, the velocity of flow matching, where alpha = 1 - sigma (SD3, Flux; Lipman et al. 2023)."""

    def prediction(self, x: Tensor, f: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        return Prediction(x - sigma * f, x + alpha * f)

    def output(self, prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
        return prediction.eps - prediction.x0

    def coefficients(self, schedule: Schedule, t: float, s: float) -> tuple[Tensor, Tensor]:
        return torch.ones((), dtype=torch.float64), schedule.sigma(s) - schedule.sigma(t)


class Denoiser(ABC):
    """`(x_t, t) -> Prediction`. Guidance is a Denoiser that wraps a Denoiser.

    `schedule` says what t means, `output` in which form the chain's network speaks.
    """

    schedule: Schedule
    parameterization: Parameterization

    @abstractmethod
    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction for the noisy latents `x` (B, C, h, w) at time `t`, in the dtype of `x`."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors besides x that want a gradient (all of them do): conditioning, weights; nothing else gets one."""

    def select(self, rows: Sequence[int]) -> Denoiser:
        """The same for some of the images of a batch; raises UserError if it cannot be told which."""
        raise UserError(f"{type(self).__name__} is for a whole batch: give it `of`, or compute all images together")

    def output(self, x: Tensor, t: float) -> Tensor:
        """The prediction in the network's own form F, (B, C, h, w)."""
        return self.parameterization.output(self(x, t), self.schedule.alpha(t), self.schedule.sigma(t))


class WrappedDenoiser(Denoiser):
    """A denoiser made of another one, `denoiser`: same schedule, same output, same inputs unless it says otherwise."""

    denoiser: Denoiser

    @property
    def schedule(self) -> Schedule:  # type: ignore[override]
        return self.denoiser.schedule

    @property
    def parameterization(self) -> Parameterization:  # type: ignore[override]
        return self.denoiser.parameterization

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.denoiser.inputs

    def select(self, rows: Sequence[int]) -> Denoiser:
        return replace(self, denoiser=self.denoiser.select(rows))  # type: ignore[type-var]


Conditioning = tuple[Tensor, ...]
"""What a network is told besides x and t (text embeddings, ...), each with a leading dimension of B or 1."""


class Network(ABC):
    """A checkpoint's network: `(x (B, C, h, w), t, conditioning) -> F (B, C, h, w)`, in the dtype of `x`."""

    schedule: Schedule
    parameterization: Parameterization

    @abstractmethod
    def __call__(self, x: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """The raw output; `conditioning` has the batch of `x`."""

    @property
    @abstractmethod
    def weights(self) -> tuple[Tensor, ...]:
        """All weights, frozen or not."""


@dataclass(frozen=True, eq=False)
class Conditioned(Denoiser):
    """A network with its conditioning filled in."""

    network: Network
    conditioning: Conditioning

    @property
    def schedule(self) -> Schedule:  # type: ignore[override]
        return self.network.schedule

    @property
    def parameterization(self) -> Parameterization:  # type: ignore[override]
        return self.network.parameterization

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(value for value in (*self.conditioning, *self.network.weights) if value.requires_grad)

    def select(self, rows: Sequence[int]) -> Conditioned:
        return Conditioned(self.network, some(self.conditioning, rows))

    def __call__(self, x: Tensor, t: float) -> Prediction:
        f = self.network(x, t, repeat(self.conditioning, len(x)))
        return self.parameterization.prediction(x, f, self.schedule.alpha(t), self.schedule.sigma(t))


def repeat(conditioning: Conditioning, batch: int) -> Conditioning:
    """`conditioning` for `batch` images; raises UserError if it was made for another number of them."""
    for value in conditioning:
        if len(value) not in (1, batch):
            raise UserError(
                f"there are {len(value)} prompts for {batch} images: give one prompt, or one for each image (seed)"
            )
    return tuple(value.expand(batch, *value.shape[1:]) for value in conditioning)


def some(conditioning: Conditioning, rows: Sequence[int]) -> Conditioning:
    """`conditioning` of some of the images; what is common to all stays."""
    return tuple(value if len(value) == 1 else value[list(rows)] for value in conditioning)
