"""What a loss is, and how one is written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from chainrule.brief import Brief
from chainrule.errors import UserError
from chainrule.images import resize_like
from chainrule.noise import Stream
from chainrule.specs import File, Spec, make_whole, name_networks


class Loss(Brief, ABC):
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

    def given(self, photos: Tensor) -> Loss:
        """This loss of edits of some photos; another one only where it compares with them.

        Args:
            photos: What the images are edits of, (B, 3, H, W) in [0, 1].
        """
        return self

    def __add__(self, other: Loss | Callable[[Tensor], Tensor]) -> Loss:
        return Sum((self, as_loss(other)))

    def __radd__(self, other: Loss | Callable[[Tensor], Tensor] | int) -> Loss:
        # sum() begins at 0
        return self if isinstance(other, int) and other == 0 else as_loss(other) + self

    def __mul__(self, weight: float) -> Loss:
        if not isinstance(weight, Real) or isinstance(weight, bool) or not isfinite(weight):
            raise UserError(f"a loss cannot be multiplied by {weight!r:.60}", "use a finite number")
        return self if weight == 1.0 else Scaled(self, float(weight))

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
        return check_values(self(images), images, self.name)[None]

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
        before = _version(images)
        value = check_values(self.function(images), images, self.name)
        if before != _version(images):
            raise UserError(
                f"{describe_loss(self.name)} changes the images that it is shown",
                "compute new ones, as images.clamp(0, 1) and not images.clamp_(0, 1)",
                "loss",
            )
        return value

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return find_networks(self.function)

    def select(self, rows: Sequence[int]) -> Loss:
        select = getattr(self.function, "select", None)
        return self if select is None else Call(select(rows), self.name)


@dataclass(frozen=True)
class Checked(Loss):
    """A loss whose numbers are checked whenever it is asked.

    Args:
        loss: The loss.
    """

    loss: Loss

    @property
    def names(self) -> tuple[str, ...]:
        return self.loss.names

    def terms(self, images: Tensor) -> Tensor:
        terms = check_terms(self.loss, images)
        check_finite(terms, self.names, [f"image {i}" for i in range(len(images))])
        return terms

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.loss.networks

    def replay(self, noise: Stream, k: int) -> Loss:
        return Checked(self.loss.replay(noise, k))

    def select(self, rows: Sequence[int]) -> Loss:
        return Checked(self.loss.select(rows))

    def given(self, photos: Tensor) -> Loss:
        return Checked(self.loss.given(photos))


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

    def given(self, photos: Tensor) -> Loss:
        return Sum(tuple(part.given(photos) for part in self.parts))


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

    def given(self, photos: Tensor) -> Loss:
        return Scaled(self.part.given(photos), self.weight)


def as_loss(value: Any) -> Loss:
    """A loss, or a function of images (B, 3, H, W) in [0, 1] as one.

    Args:
        value: A loss, or any function or module that gives one number for each image, (B,).

    Raises:
        UserError: It is neither.
    """
    if isinstance(value, Loss):
        return value
    cure = "give a loss, or a function from images (B, 3, H, W) to (B,)"
    if isinstance(value, LossSpec):
        raise UserError(f"{value.label} is only written down", "load it, with .build()", "loss")
    if isinstance(value, str):
        raise UserError(
            f"{value[:60]!r} is a loss in words", "load it, as SymmetrySpec().build()", "loss"
        )
    if isinstance(value, type):
        raise UserError(f"{value.__name__} is a class", f"{cure}: {value.__name__}(...)", "loss")
    if not callable(value):
        raise UserError(f"the loss is of type {type(value).__name__}", cure, "loss")
    name = getattr(value, "__name__", "loss")
    return Call(value, "loss" if name == "<lambda>" else name)


def check_values(value: Any, images: Tensor, name: str) -> Tensor:
    """What a loss says of some images, on their device.

    Args:
        value: What it returned.
        images: (B, 3, H, W), what it was shown.
        name: What it is called.

    Raises:
        UserError: That is not one real number for each image, or none can be differentiated.
    """
    if not isinstance(value, Tensor):
        raise UserError(
            f"a loss must return a tensor, and {describe_loss(name)} returns {_kind(value)}",
            "give one number for each image, of shape (B,)",
            "loss",
        )
    if value.shape != (len(images),):
        raise UserError(
            f"a loss must return one number for each of the {len(images)} images or crops, and "
            f"{describe_loss(name)} returns shape {tuple(value.shape)}",
            "drop the last dimension, as .squeeze(1)"
            if value.shape == (len(images), 1)
            else "average over everything but the first dimension, as .mean(dim=(1, 2, 3))",
            "loss",
        )
    return _check_kind(value, images, name)


def check_terms(loss: Loss, images: Tensor) -> Tensor:
    """Each term of a loss for each image, (n, B), on the images' device.

    Args:
        loss: The loss, perhaps somebody else's.
        images: (B, 3, H, W) in [0, 1].

    Raises:
        UserError: A term is not one real number for each image, or cannot be differentiated.
    """
    terms, names = loss.terms(images), loss.names
    expected, called = (len(names), len(images)), " + ".join(names)
    if not isinstance(terms, Tensor) or terms.shape != expected:
        found = tuple(terms.shape) if isinstance(terms, Tensor) else _kind(terms)
        raise UserError(
            f"the terms of {describe_loss(called)} are {found}",
            f"make them a tensor of shape {expected}: a row a name, a column an image",
            "loss",
        )
    return _check_kind(terms, images, called)


def check_finite(terms: Tensor, names: Sequence[str], images: Sequence[str]) -> None:
    """Raise UserError for the first term that is not finite.

    Args:
        terms: (n, B).
        names: The n terms'.
        images: What the B images are called.
    """
    if bool(torch.isfinite(terms).all()):
        return
    term, image = torch.nonzero(~torch.isfinite(terms))[0].tolist()
    raise UserError(
        f"{describe_loss(names[term])} is {terms[term, image].item():g} for {images[image]}",
        "keep it finite: clamp what is divided by, or is under a root or a logarithm",
        "loss",
    )


def _check_kind(value: Tensor, images: Tensor, name: str) -> Tensor:
    """Real numbers that have a gradient, if one is wanted; on the images' device."""
    if not value.is_floating_point():
        what = "complex numbers" if value.is_complex() else "whole numbers"
        cure = "take their absolute values" if value.is_complex() else "compute with floats"
        raise UserError(f"{describe_loss(name)} returns {what} ({value.dtype})", cure, "loss")
    if torch.is_grad_enabled() and images.requires_grad and not value.requires_grad:
        raise unconnected(name)
    return value.to(images.device)


def unconnected(name: str) -> UserError:
    """The error that says that a loss has no gradient.

    Args:
        name: What the loss is called.
    """
    return UserError(
        f"{describe_loss(name)} does not depend on the images in a way that can be differentiated",
        "compute it from them with torch alone, without detach(), item(), numpy or no_grad",
        "loss",
    )


def describe_loss(name: str) -> str:
    """A loss by its name: "the loss redness", and no "the loss loss".

    Args:
        name: Its name.
    """
    return "the loss" if name == "loss" else f"the loss {name[:80]}"


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__}"


def _version(images: Tensor) -> int:
    """How often a tensor was changed in place; inference mode does not count."""
    return 0 if images.is_inference() else images._version


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
    """The sum of one or more losses. Raises UserError if there is none."""
    if len(losses) == 0:
        raise UserError("there are no losses to add", "give one or more", "loss")
    every = tuple(as_loss(loss) for loss in losses)
    return every[0] if len(every) == 1 else Sum(every)


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

    def require_photo(self) -> None:
        """Raise UserError if images that are no edits of a photo cannot be judged by it."""

    def build(self, device: str | torch.device = "cpu", world: str | None = None) -> Loss:
        """The weighted loss.

        Args:
            device: Where it works.
            world: The world whose networks are asked where none are named, as `Model.world`; None:
                that of the shapes.

        Raises:
            UserError: As `load` does.
        """
        own = self if world is None else name_networks(self, world)
        return own.weight * own.load(device)


class PictureLossSpec(LossSpec):
    """A loss that compares the image with a picture."""

    target: File = Field(description="The picture.")

    @classmethod
    def parse_target(cls, text: str) -> dict[str, Any]:
        return {"target": absolute(text)}


def absolute(path: str) -> Path:
    """The whole path of a file that somebody wrote down, "~" being the home folder."""
    return make_whole(path.strip())


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
