"""What a loss is, and how one is written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from chainrule.errors import UserError
from chainrule.images import resize_like
from chainrule.noise import Stream
from chainrule.specs import File, Spec


class Loss(ABC):
    """`images (B, 3, H, W) in [0, 1] -> (B,)`, differentiable.

    The loss of an image depends on that image alone. It is a sum of named terms, so that what it
    is made of can be followed.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of its n terms, each once."""

    @abstractmethod
    def terms(self, images: Tensor) -> Tensor:
        """Each term for each image, (n, B)."""

    def __call__(self, images: Tensor) -> Tensor:
        """The loss of each image, (B,)."""
        return self.terms(images).sum(dim=0)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks, each once."""
        return ()

    def replay(self, noise: Stream, k: int) -> Loss:
        """This loss with its random choices, if it makes any, fixed.

        Args:
            noise: Where they come from: a seed for each image, or one for all.
            k: Which draw of the stream, from 0.
        """
        return self

    def select(self, rows: Sequence[int]) -> Loss:
        """The loss of some of the images: `loss(images)[rows] == loss.select(rows)(images[rows])`.

        It is another one only where it holds something of each image.
        """
        return self

    def __add__(self, other: Loss) -> Loss:
        return Sum((self, other))

    def __mul__(self, weight: float) -> Loss:
        return self if weight == 1.0 else Scaled(self, weight)

    __rmul__ = __mul__


class Term(Loss):
    """A loss of a single term."""

    whole: ClassVar[bool] = False
    """Whether it judges places or totals, so that a crop of the image means nothing to it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called, in short."""

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
    """Any function as a loss.

    Args:
        function: Differentiable, from images (B, 3, H, W) in [0, 1] to (B,). If it holds something
            of each image, it needs a method `select(rows)` that returns the function of some.
        name: What the loss is called.
    """

    function: Callable[[Tensor], Tensor]
    name: str = "loss"

    def __call__(self, images: Tensor) -> Tensor:
        value = self.function(images)
        if not isinstance(value, Tensor):
            raise UserError(
                f"a loss must return a tensor, not {type(value).__name__}",
                "give one number for each image, of shape (B,)",
            )
        if value.shape != (len(images),):
            raise UserError(
                f"a loss must return one number for each of the {len(images)} images, "
                f"not shape {tuple(value.shape)}",
                "average over everything but the first dimension",
            )
        return value

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return find_networks(self.function)

    def select(self, rows: Sequence[int]) -> Loss:
        select = getattr(self.function, "select", None)
        return self if select is None else Call(select(rows), self.name)


@dataclass(frozen=True)
class Sum(Loss):
    """The sum of several losses."""

    parts: tuple[Loss, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return number_repeated([name for part in self.parts for name in part.names])

    def terms(self, images: Tensor) -> Tensor:
        return torch.cat([part.terms(images) for part in self.parts])

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return join_networks(part.networks for part in self.parts)

    def replay(self, noise: Stream, k: int) -> Loss:
        return Sum(tuple(part.replay(noise, k) for part in self.parts))

    def select(self, rows: Sequence[int]) -> Loss:
        return Sum(tuple(part.select(rows) for part in self.parts))


@dataclass(frozen=True)
class Scaled(Loss):
    """A loss times a number."""

    part: Loss
    weight: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.weight:g}*{name}" for name in self.part.names)

    def terms(self, images: Tensor) -> Tensor:
        return self.weight * self.part.terms(images)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.part.networks

    def replay(self, noise: Stream, k: int) -> Loss:
        return Scaled(self.part.replay(noise, k), self.weight)

    def select(self, rows: Sequence[int]) -> Loss:
        return Scaled(self.part.select(rows), self.weight)


def weighted_terms(loss: Loss | None) -> list[tuple[float, Loss]]:
    """The parts of a loss that are not themselves sums or multiples, with their weights."""
    if loss is None:
        return []
    if isinstance(loss, Sum):
        return [pair for part in loss.parts for pair in weighted_terms(part)]
    if isinstance(loss, Scaled):
        return [(loss.weight * weight, part) for weight, part in weighted_terms(loss.part)]
    return [(1.0, loss)]


def sum_losses(losses: Sequence[Loss]) -> Loss:
    """The sum of one or more losses."""
    return losses[0] if len(losses) == 1 else Sum(tuple(losses))


def find_networks(function: Any) -> tuple[nn.Module, ...]:
    """The networks that a function asks, if it is one itself, or names them as `networks`."""
    if isinstance(function, nn.Module):
        return (function,)
    return tuple(getattr(function, "networks", ()))


def join_networks(several: Iterable[tuple[nn.Module, ...]]) -> tuple[nn.Module, ...]:
    """The networks of several, each once."""
    return tuple(dict.fromkeys(chain.from_iterable(several)))


def number_repeated(names: Sequence[str]) -> tuple[str, ...]:
    """Names that differ: what comes again has a number.

    >>> number_repeated(["picture", "text", "picture"])
    ('picture', 'text', 'picture (2)')
    """
    numbered: dict[str, None] = {}
    for name in names:
        again = (f"{name} ({k})" for k in count(2))
        numbered[next(each for each in chain([name], again) if each not in numbered)] = None
    return tuple(numbered)


class LossSpec(Spec, ABC):
    """A loss by its name, as it is written down."""

    hint: ClassVar[str]
    """How it is written on one line: "classifier=CLASS", or its name alone if it takes nothing."""

    kind: str
    weight: float = Field(1.0, allow_inf_nan=False, description="What the loss is multiplied by.")

    @property
    def label(self) -> str:
        """What is asked for, in short."""
        target = getattr(self, "target", None)
        several = target if isinstance(target, tuple) else (target,)
        names = [each.name if isinstance(each, Path) else f"{each}" for each in several]
        text = self.kind if target is None else f"{self.kind}={','.join(names)}"
        return text if self.weight == 1.0 else f"{self.weight:g}*{text}"

    @classmethod
    def parse_target(cls, text: str) -> dict[str, Any]:
        """The fields that the `text` after "KIND=" says; empty, the kind stood alone."""
        return {"target": text}

    @abstractmethod
    def load(self, device: str | torch.device = "cpu") -> Loss:
        """The loss without its weight.

        Raises:
            UserError: A file or a network is not there, or does not fit.
        """

    def build(self, device: str | torch.device = "cpu") -> Loss:
        """The weighted loss. Raises UserError as `load` does."""
        return self.weight * self.load(device)


class PictureLossSpec(LossSpec):
    """A loss that compares the image with a picture."""

    target: File = Field(description="The picture.")

    @classmethod
    def parse_target(cls, text: str) -> dict[str, Any]:
        return {"target": absolute(text)}


def absolute(path: str) -> Path:
    """The whole path of a file that somebody wrote down, "~" being the home folder."""
    return Path(path.strip()).expanduser().absolute()


def match_pictures(picture: Tensor, images: Tensor) -> Tensor:
    """What images are compared with, at their size.

    Args:
        picture: A picture (3, h, w), or one for each image, (B, 3, h, w).
        images: Images (B, 3, H, W).

    Returns:
        The picture or pictures, (1 or B, 3, H, W).

    Raises:
        UserError: There are pictures, but not one for each image.
    """
    pictures = picture.reshape(-1, *picture.shape[-3:])
    if len(pictures) not in (1, len(images)):
        raise UserError(
            f"there are {len(pictures)} pictures for {len(images)} images",
            "give one for all, or one for each; of some images, use loss.select(rows)",
        )
    return resize_like(pictures, images)


def select_picture(picture: Tensor, rows: Sequence[int]) -> Tensor:
    """What some of the images are compared with.

    Args:
        picture: A picture (3, h, w) or (1, 3, h, w), or one for each image, (B, 3, h, w).
        rows: Which images, from 0 to B - 1.

    Returns:
        The pictures of these images; a single one is everyone's.
    """
    return picture if picture.ndim == 3 or len(picture) == 1 else picture[list(rows)]
