"""What a diffusion network says of a noisy latent, in the one form that everything else uses.

A network is trained to predict the noise or a velocity; these are the same knowledge written
differently, and this module is the only place that converts one into another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chainrule.brief import Brief
from chainrule.diffusion.batch import PerImage
from chainrule.diffusion.held import find_tensors
from chainrule.diffusion.schedule import Schedule
from chainrule.errors import UserError


class Prediction(NamedTuple):
    """A network's guess of the clean latent and of the noise: x_t = alpha x0 + sigma eps.

    Both are kept: recomputing one from the other loses precision, and some methods break their tie
    on purpose.

    Args:
        x0: (B, C, h, w).
        eps: (B, C, h, w).
    """

    x0: Tensor
    eps: Tensor

    def combine(self, other: Prediction, rule: Callable[[Tensor, Tensor], Tensor]) -> Prediction:
        """A rule applied to both parts of two predictions.

        Args:
            other: The second one.
            rule: Of a part of this prediction and the same part of the other.
        """
        return Prediction(rule(self.x0, other.x0), rule(self.eps, other.eps))


class Parameterization(ABC):
    """What a network's raw output F is, and the first-order step written in it: x_s = a x_t + b F.

    No coefficient divides by an alpha that may be zero unless F is the noise itself.
    """

    @abstractmethod
    def prediction(self, x: Tensor, f: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """What the raw output means.

        Args:
            x: The noisy latents (B, C, h, w).
            f: The raw output at `x`, likewise.
            alpha: The share of the picture in `x`, a scalar.
            sigma: The share of the noise in `x`, a scalar.
        """

    @abstractmethod
    def output(self, prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The raw output (B, C, h, w) that a prediction, perhaps a guided one, stands for.

        Args:
            prediction: What is said of the noisy latents.
            alpha: The share of the picture in them, a scalar.
            sigma: The share of the noise in them, a scalar.
        """

    @abstractmethod
    def coefficients(self, schedule: Schedule, t: float, s: float) -> tuple[Tensor, Tensor]:
        """(a, b) of a step, float64 scalars.

        Args:
            schedule: What times mean.
            t: The time at the start of the step.
            s: The time at its end.
        """


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
    """F = alpha eps - sigma x0, the velocity of a variance-preserving process.

    Salimans & Ho 2022.
    """

    def prediction(self, x: Tensor, f: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        return Prediction(alpha * x - sigma * f, sigma * x + alpha * f)

    def output(self, prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * prediction.eps - sigma * prediction.x0

    def coefficients(self, schedule: Schedule, t: float, s: float) -> tuple[Tensor, Tensor]:
        alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        return alpha_s * alpha_t + sigma_s * sigma_t, sigma_s * alpha_t - alpha_s * sigma_t


class Flow(Parameterization):
    """F = eps - x0, the velocity of flow matching, where alpha = 1 - sigma (SD3, Flux).

    Lipman et al. 2023.
    """

    def prediction(self, x: Tensor, f: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        return Prediction(x - sigma * f, x + alpha * f)

    def output(self, prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
        return prediction.eps - prediction.x0

    def coefficients(self, schedule: Schedule, t: float, s: float) -> tuple[Tensor, Tensor]:
        return torch.ones((), dtype=torch.float64), schedule.sigma(s) - schedule.sigma(t)


class Denoiser(Brief, ABC):
    """`(x_t, t) -> Prediction`. Guidance is a Denoiser that wraps a Denoiser.

    What one returns is checked at every call: another shape would be broadcast without a word.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            cls.__call__ = _checked(cls.__call__)  # type: ignore[method-assign]

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """What t means."""

    @property
    @abstractmethod
    def parameterization(self) -> Parameterization:
        """The form in which the chain's network speaks."""

    @abstractmethod
    def __call__(self, x: Tensor, t: float) -> Prediction:
        """What is said of noisy latents, in their dtype.

        Args:
            x: The noisy latents (B, C, h, w).
            t: Their time.
        """

    @property
    @abstractmethod
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors besides x that want a gradient: conditioning, weights.

        All of them do, and nothing else gets one.
        """

    @property
    @abstractmethod
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that are asked, each once: those that a memory plan may move."""

    @property
    def reads(self) -> Mapping[str, Tensor]:
        """All tensors besides x that an answer depends on, by name, with a gradient or without.

        While a chain waits for its backward pass they must not change: `Checkpoint`, `Reversible`
        and `Adjoint` ask again, and refuse where one did. By default they are those that can be
        found in its attributes (`chainrule.diffusion.held.find_tensors`); name those that cannot.
        """
        return find_tensors(self)

    def select(self, rows: Sequence[int]) -> Denoiser:
        """The same for some of the images of a batch.

        Raises:
            UserError: If it cannot be told what belongs to which image.
        """
        raise UserError(
            f"a {type(self).__name__} is for a whole batch",
            "give it `select`, or compute all images together",
        )

    def output(self, x: Tensor, t: float) -> Tensor:
        """The prediction in the network's own form F.

        Args:
            x: The noisy latents (B, C, h, w).
            t: Their time.

        Returns:
            (B, C, h, w).
        """
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return self.parameterization.output(self(x, t), alpha, sigma)


def _checked(call: Callable[[Any, Tensor, float], Prediction]) -> Any:
    """A denoiser's `__call__` that refuses what is no prediction of the latents."""

    @wraps(call)
    def checked(self: Denoiser, x: Tensor, t: float) -> Prediction:
        told = call(self, x, t)
        if isinstance(told, Prediction):
            shapes = [getattr(part, "shape", None) for part in told]
            if shapes == [x.shape, x.shape]:
                return told
            found = f"a Prediction of shapes {' and '.join(map(_describe, told))}"
        else:
            found = _describe(told)
        raise UserError(
            f"{type(self).__name__} returned {found} for latents {tuple(x.shape)}",
            "return Prediction(x0, eps), both of the latents' shape",
            "denoiser",
        )

    return checked


def _describe(value: object) -> str:
    """What something is, in a word; of a tensor, its shape."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


class WrappedDenoiser(PerImage, Denoiser):
    """A dataclass made of another denoiser: as that one in all that it does not change."""

    denoiser: Denoiser

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def parameterization(self) -> Parameterization:
        return self.denoiser.parameterization

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.denoiser.inputs

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.denoiser.networks


Conditioning = tuple[Tensor, ...]
"""What a network is told besides x and t (text embeddings, ...), each (B or 1, ...)."""


class Network(Brief, ABC):
    """A checkpoint's network: `(x, t, conditioning) -> F`.

    Its `schedule` says what t means, its `parameterization` what F is.
    """

    schedule: Schedule
    parameterization: Parameterization

    @abstractmethod
    def __call__(self, x: Tensor, t: float | Tensor, conditioning: Conditioning) -> Tensor:
        """The raw output (B, C, h, w), in the dtype of `x`.

        Args:
            x: The noisy latents (B, C, h, w).
            t: Their time, or each one's own (B,).
            conditioning: Of the batch of `x`.
        """

    @property
    @abstractmethod
    def weights(self) -> tuple[Tensor, ...]:
        """All weights, frozen or not."""

    @property
    @abstractmethod
    def networks(self) -> tuple[nn.Module, ...]:
        """The modules that it is made of: those that a memory plan may move."""


@dataclass(frozen=True, eq=False)
class Conditioned(PerImage, Denoiser):
    """A network with its conditioning filled in."""

    network: Network
    conditioning: Conditioning

    @property
    def schedule(self) -> Schedule:
        return self.network.schedule

    @property
    def parameterization(self) -> Parameterization:
        return self.network.parameterization

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        every = (*self.conditioning, *self.network.weights)
        return tuple(value for value in every if value.requires_grad)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.network.networks

    def __call__(self, x: Tensor, t: float) -> Prediction:
        f = self.network(x, t, repeat(self.conditioning, len(x)))
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return self.parameterization.prediction(x, f, alpha, sigma)


def repeat(conditioning: Conditioning, batch: int) -> Conditioning:
    """A conditioning for each of the images.

    Args:
        conditioning: For one image or for all.
        batch: How many images there are.

    Raises:
        UserError: If it was made for another number of images.
    """
    for value in conditioning:
        if len(value) not in (1, batch):
            raise UserError(
                f"there are {len(value)} prompts for {batch} images",
                "give one prompt, or one for each image (seed)",
                "prompt",
            )
    return tuple(value.expand(batch, *value.shape[1:]) for value in conditioning)


def find_networks(*parts: Any) -> tuple[nn.Module, ...]:
    """The networks that things ask, each once.

    Args:
        parts: A module is its own; of others, what they declare as `networks`, if anything.
    """
    found: dict[int, nn.Module] = {}
    for part in parts:
        own = (part,) if isinstance(part, nn.Module) else getattr(part, "networks", ())
        found |= {id(network): network for network in own}
    return tuple(found.values())
