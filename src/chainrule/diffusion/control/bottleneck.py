"""h-space: Kwon, Jeong & Uh, "Diffusion Models Already Have a Semantic Latent Space" (Asyrp), 2023.

    x_s = alpha_s x0(x_t; h + dh) + sigma_s eps(x_t; h)      eq. 7, the asymmetric reverse process

h is what the deepest block of the U-Net makes, (N, C, h, w), or the middle block of a transformer,
(N, n, C) for n places: of its image alone where texts go through the same blocks. A shift of it
that moved both halves would nearly cancel out (theorem 1), so it moves the predicted picture alone,
and `Prediction` keeps both halves apart for that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from chainrule.diffusion.batch import PerImage
from chainrule.diffusion.control.base import module
from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser, find_networks
from chainrule.errors import UserError


class Direction(PerImage, ABC):
    """A dataclass: where h should go at each time."""

    @abstractmethod
    def __call__(self, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
        """dh, as h of N images, where N divides the network's batch.

        Args:
            denoiser: What is asked.
            x: The noisy latents (B, C, h, w).
            t: Their time.
        """

    def shift(self, denoiser: Denoiser, x: Tensor, t: float) -> Callable[[Tensor], Tensor]:
        """What becomes of h, as a function of it.

        Args:
            denoiser: What is asked.
            x: The noisy latents (B, C, h, w).
            t: Their time.
        """
        dh = self(denoiser, x, t)
        return lambda h: add_shift(h, dh)

    @property
    @abstractmethod
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that want a gradient."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks besides the denoiser's, each once."""
        return ()


@dataclass(frozen=True, eq=False)
class Shift(Direction):
    """A given one, the same at all times.

    Args:
        dh: As h of one image, or of each.
    """

    dh: Tensor

    def __call__(self, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
        return self.dh

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.dh,) if self.dh.requires_grad else ()


@dataclass(frozen=True, eq=False)
class Towards(Direction):
    """The way from what h is to what it is under another denoiser: no training.

    Args:
        other: The same network, told something else.
        scale: How far to go; 1 is all the way.
    """

    other: Denoiser
    scale: float = 1.0

    def __call__(self, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
        there, here = bottleneck(self.other, x, t), bottleneck(denoiser, x, t)
        if there.shape != here.shape:
            raise UserError(
                "the two prompts must be guided alike",
                "say what the picture shows, and what it should show",
            )
        return self.scale * (there - here)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.other.inputs

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.other.networks


@dataclass(frozen=True, eq=False)
class Bottleneck(WrappedDenoiser):
    """A denoiser whose predicted picture is of a shifted h: one call more, and the direction's.

    Args:
        denoiser: What is shifted.
        direction: By how much.
        stop: The last time at which it is.
    """

    denoiser: Denoiser
    direction: Direction
    stop: float = 0.0

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (*self.denoiser.inputs, *self.direction.inputs)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return find_networks(self.denoiser, self.direction)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        plain = self.denoiser(x, t)
        if t < self.stop:
            return plain
        with _hook(self.denoiser, self.direction.shift(self.denoiser, x, t)):
            return Prediction(self.denoiser(x, t).x0, plain.eps)


def add_shift(h: Tensor, dh: Tensor) -> Tensor:
    """h, moved.

    Args:
        h: Of all that the network is asked.
        dh: The same of N images, where N divides the batch.

    Raises:
        UserError: They are not of one size.
    """
    if dh.shape[1:] != h.shape[1:] or len(h) % len(dh):
        raise UserError(
            f"the shift is {tuple(dh.shape)} and the bottleneck {tuple(h.shape)}",
            "they must be the same size, but for images that share a shift",
        )
    return h + dh.to(h).repeat(len(h) // len(dh), *[1] * (h.ndim - 1))


def bottleneck(denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
    """h of all that the network is asked (with guidance, of both halves).

    Args:
        denoiser: What is asked.
        x: The noisy latents (B, C, h, w).
        t: Their time.
    """
    found: list[Tensor] = []
    with _hook(denoiser, lambda h: found.append(h)):
        denoiser(x, t)
    return found[0]


def deepest(denoiser: Denoiser) -> Any:
    """The deepest block of a denoiser's U-Net, or the middle one of a transformer's.

    Raises:
        UserError: It has neither; or a transformer's blocks are to be rebuilt on the way back, and
            what reaches into them with them.
    """
    block = getattr(module(denoiser, rebuilt=True), "mid_block", None)
    if block is not None:  # a U-Net's is rebuilt in parts, whose sum it is
        return block
    network = module(denoiser)
    blocks = getattr(network, "transformer_blocks", None)
    if not blocks:
        raise UserError(
            f"a {type(network).__name__} has no bottleneck: Asyrp needs a U-Net or a transformer",
            "choose a checkpoint that has one",
        )
    return blocks[(len(blocks) - 1) // 2]


@contextmanager
def _hook(denoiser: Denoiser, hook: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """While this lasts, `hook` sees each h, and replaces it if it returns one."""

    def on_forward(_module: Any, _inputs: Any, out: Any) -> Any:
        *texts, h = out if isinstance(out, tuple) else (out,)
        moved = hook(h)
        return (*texts, moved) if texts and moved is not None else moved

    handle = deepest(denoiser).register_forward_hook(on_forward)
    try:
        yield
    finally:
        handle.remove()
