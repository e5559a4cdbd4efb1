"""What a loss is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.noise import Noise


class Loss(ABC):
    """`images (B, 3, H, W) in [0, 1] -> (B,)`, differentiable; the loss of an image depends on that image alone.

    A loss is a sum of named terms, so that what it is made of can be followed.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of its n terms."""

    @abstractmethod
    def terms(self, images: Tensor) -> Tensor:
        """Each term for each image, (n, B)."""

    def __call__(self, images: Tensor) -> Tensor:
        """The loss of each image, (B,)."""
        return self.terms(images).sum(dim=0)

    def replayed(self, noise: Noise, draw: int) -> Loss:
        """This loss with its random choices, if it makes any, fixed to draw `draw` of `noise` (one seed an image)."""
        return self

    def __add__(self, other: Loss) -> Loss:
        return Sum((self, other))

    def __mul__(self, weight: float) -> Loss:
        return self if weight == 1.0 else Scaled(self, weight)

    __rmul__ = __mul__


class Term(Loss):
    """A loss of a single term. One that judges places or totals is `whole`: a crop of the image means nothing to it."""

    name: str
    whole: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def terms(self, images: Tensor) -> Tensor:
        return self(images)[None]

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """The loss of each image, (B,)."""


@dataclass(frozen=True)
class Call(Term):
    """Any differentiable function from images (B, 3, H, W) to (B,) as a loss."""

    function: Callable[[Tensor], Tensor]
    name: str = "loss"

    def __call__(self, images: Tensor) -> Tensor:
        value = self.function(images)
        if value.shape != (len(images),):
            raise UserError(
                f"a loss must return one number for each of the {len(images)} images, not shape {tuple(value.shape)}: "
                "average over everything but the first dimension"
            )
        return value


@dataclass(frozen=True)
class Sum(Loss):
    """The sum of several losses."""

    parts: tuple[Loss, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(chain.from_iterable(part.names for part in self.parts))

    def terms(self, images: Tensor) -> Tensor:
        return torch.cat([part.terms(images) for part in self.parts])

    def replayed(self, noise: Noise, draw: int) -> Loss:
        return Sum(tuple(part.replayed(noise, draw) for part in self.parts))


def added(losses: Sequence[Loss]) -> Loss:
    """The sum of one or more losses."""
    return losses[0] if len(losses) == 1 else Sum(tuple(losses))


@dataclass(frozen=True)
class Scaled(Loss):
    """A loss times a number."""

    part: Loss
    weight: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.weight:g} {name}" for name in self.part.names)

    def terms(self, images: Tensor) -> Tensor:
        return self.weight * self.part.terms(images)

    def replayed(self, noise: Noise, draw: int) -> Loss:
        return Scaled(self.part.replayed(noise, draw), self.weight)
