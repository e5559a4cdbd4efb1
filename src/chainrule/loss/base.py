"""What a loss is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from chainrule.errors import UserError
from chainrule.noise import Noise


class Loss(ABC):
    """`images (B, 3, H, W) in [0, 1] -> (B,)`, differentiable; the loss of an image depends on that image alone."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """The loss of each image, (B,)."""

    def replayed(self, noise: Noise, draw: int) -> Loss:
        """This loss with its random choices, if it makes any, fixed to draw `draw` of `noise` (one seed an image)."""
        return self

    def __add__(self, other: Loss) -> Loss:
        return Sum((self, other))

    def __mul__(self, weight: float) -> Loss:
        return Scaled(self, weight)

    __rmul__ = __mul__


@dataclass(frozen=True)
class Call(Loss):
    """Any differentiable function from images (B, 3, H, W) to (B,) as a loss."""

    function: Callable[[Tensor], Tensor]

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

    terms: tuple[Loss, ...]

    def __call__(self, images: Tensor) -> Tensor:
        first, *others = (term(images) for term in self.terms)
        return sum(others, start=first)

    def replayed(self, noise: Noise, draw: int) -> Loss:
        return Sum(tuple(term.replayed(noise, draw) for term in self.terms))


@dataclass(frozen=True)
class Scaled(Loss):
    """A loss times a number."""

    term: Loss
    weight: float

    def __call__(self, images: Tensor) -> Tensor:
        return self.weight * self.term(images)

    def replayed(self, noise: Noise, draw: int) -> Loss:
        return Scaled(self.term.replayed(noise, draw), self.weight)
