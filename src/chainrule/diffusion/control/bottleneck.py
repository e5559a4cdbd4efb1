"""h-space: Kwon, Jeong & Uh, "Diffusion Models Already Have a Semantic Latent Space" (Asyrp), 2023.

    x_s = alpha_s x0(x_t; h + dh) + sigma_s eps(x_t; h)            eq. 7, the asymmetric reverse process

h is what the deepest block of the U-Net makes. A shift of it that moved both halves would nearly cancel out (theorem
1), so it moves the predicted picture alone, and `Prediction` keeps both halves apart for that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from chainrule.diffusion.control.base import module
from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser, some
from chainrule.errors import UserError


class Direction(ABC):
    """Where h should go at each time."""

    @abstractmethod
    def __call__(self, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
        """dh for what `denoiser` is asked at `x` and `t`: (N, C, h, w), N dividing the network's batch."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that want a gradient."""

    @abstractmethod
    def select(self, rows: Sequence[int]) -> Direction:
        """The same for some of the images."""


@dataclass(frozen=True, eq=False)
class Shift(Direction):
    """A given one, `dh` (1 or B, C, h, w), the same at all times."""

    dh: Tensor

    def __call__(self, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
        return self.dh

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.dh,) if self.dh.requires_grad else ()

    def select(self, rows: Sequence[int]) -> Shift:
        return Shift(*some((self.dh,), rows))


@dataclass(frozen=True, eq=False)
class Towards(Direction):
    """`scale` times the way from what h is to what it is under `other`, a denoiser told something else: no training."""

    other: Denoiser
    scale: float = 1.0

    def __call__(self, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
        there, here = bottleneck(self.other, x, t), bottleneck(denoiser, x, t)
        if there.shape != here.shape:
            raise UserError("the two prompts must be guided alike: say what the picture shows, and what it should show")
        return self.scale * (there - here)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.other.inputs

    def select(self, rows: Sequence[int]) -> Towards:
        return Towards(self.other.select(rows), self.scale)


@dataclass(frozen=True, eq=False)
class Bottleneck(WrappedDenoiser):
    """`denoiser` whose predicted picture is of a shifted h, down to time `stop`: one call more, and the direction's."""

    denoiser: Denoiser
    direction: Direction
    stop: float = 0.0

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (*self.denoiser.inputs, *self.direction.inputs)

    def select(self, rows: Sequence[int]) -> Bottleneck:
        return Bottleneck(self.denoiser.select(rows), self.direction.select(rows), self.stop)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        plain = self.denoiser(x, t)
        if t < self.stop:
            return plain
        dh = self.direction(self.denoiser, x, t)

        def shift(h: Tensor) -> Tensor:
            if dh.shape[1:] != h.shape[1:] or len(h) % len(dh):
                raise UserError(f"the shift is {tuple(dh.shape)} and the bottleneck {tuple(h.shape)}: they must agree")
            return h + dh.to(h).repeat(len(h) // len(dh), 1, 1, 1)

        with _hooked(self.denoiser, shift):
            return Prediction(self.denoiser(x, t).x0, plain.eps)


def bottleneck(denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
    """h at `x` (B, C, h, w) and `t`, of all that the network is asked (with guidance, of both halves)."""
    found: list[Tensor] = []
    with _hooked(denoiser, lambda h: found.append(h)):
        denoiser(x, t)
    return found[0]


def deepest(denoiser: Denoiser) -> Any:
    """The deepest block of a denoiser's U-Net; raises UserError if it is none."""
    network = module(denoiser)
    block = getattr(network, "mid_block", None)
    if block is None:
        raise UserError(f"a {type(network).__name__} has no bottleneck: Asyrp needs a U-Net")
    return block


@contextmanager
def _hooked(denoiser: Denoiser, hook: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """While this lasts, `hook` sees each h, and replaces it if it returns one."""

    def on_forward(_module: Any, _inputs: Any, h: Tensor) -> Tensor | None:
        return hook(h)

    handle = deepest(denoiser).register_forward_hook(on_forward)
    try:
        yield
    finally:
        handle.remove()
