"""Directions of h that were trained: section 3.4 of Kwon, Jeong & Uh (Asyrp), 2023.

f_t(h) = W_2 silu(norm(W_1 h + b_1) + E tau(t)) + b_2       at each place of h
f_t(h) = dh_t                                               at the time next to t
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.nn import functional

from chainrule.diffusion.control.bottleneck import Direction, add_shift, bottleneck
from chainrule.diffusion.denoiser import Denoiser, find_networks
from chainrule.errors import UserError

WAVES = 64
"""How many numbers tell a function the time."""


@dataclass(frozen=True, eq=False)
class Learnt(Direction):
    """The paper's implicit function of h and t, or a shift for each of some times.

    Args:
        values: `w1`, `w2` (C, C), `b1`, `b2` (C,) and `e` (C, `WAVES`) of a function; `dh`, as h of
            S images, and `times` (S,) of shifts.
        scale: How far to go; 1 is as it was learnt.
        stop: The last time at which anything is moved.
    """

    values: Mapping[str, Tensor]
    scale: float = 1.0
    stop: float = 0.0

    @classmethod
    def begin(cls, h: Tensor, times: Tensor | None = None) -> Learnt:
        """One that changes nothing yet.

        Args:
            h: What the block makes of one image, for its size.
            times: Those that have a shift each; None: a function.
        """
        if times is not None:
            return cls({"dh": h.new_zeros(len(times), *h.shape[1:]).float(), "times": times})
        channels = h.shape[1 if h.ndim == 4 else 2]
        chance = torch.Generator().manual_seed(0)
        w1 = torch.randn(channels, channels, generator=chance) / channels**0.5
        e = torch.randn(channels, WAVES, generator=chance) / WAVES**0.5
        zero = torch.zeros(channels)
        values = {"w1": w1, "b1": zero, "e": e, "w2": torch.zeros_like(w1), "b2": zero}
        return cls({name: value.to(h.device) for name, value in values.items()})

    def __call__(self, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
        return self.change(bottleneck(denoiser, x, t), t)

    def shift(self, denoiser: Denoiser, x: Tensor, t: float) -> Callable[[Tensor], Tensor]:
        return lambda h: add_shift(h, self.change(h, t))  # it sees h on the way, without a call

    def change(self, h: Tensor, t: float) -> Tensor:
        """scale f_t(h).

        Args:
            h: Of all that the network is asked.
            t: The time.

        Returns:
            As h, or of one image.
        """
        v = self.values
        if t < self.stop:
            return torch.zeros_like(h[:1])
        if "dh" in v:
            return self.scale * v["dh"][(v["times"] - t).abs().argmin()][None]
        at_last = h.movedim(1, -1) if h.ndim == 4 else h  # (N, ..., C)
        inner = functional.linear(at_last.to(v["w1"].dtype), v["w1"], v["b1"])
        inner = functional.layer_norm(inner, inner.shape[1:]) + v["e"] @ waves(t).to(v["e"])
        out = self.scale * functional.linear(functional.silu(inner), v["w2"], v["b2"])
        return out.movedim(-1, 1) if h.ndim == 4 else out

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(value for value in self.values.values() if value.requires_grad)

    def select(self, rows: Sequence[int]) -> Learnt:
        return self  # it is common to all images


@dataclass(frozen=True, eq=False)
class Several(Direction):
    """The sum of directions: changes that are made together.

    Args:
        parts: The directions, one or more.
    """

    parts: tuple[Direction, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError("there are no directions to be added", "give one or more")

    def __call__(self, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
        return reduce(add, [part(denoiser, x, t) for part in self.parts])

    def shift(self, denoiser: Denoiser, x: Tensor, t: float) -> Callable[[Tensor], Tensor]:
        shifts = [part.shift(denoiser, x, t) for part in self.parts]
        return lambda h: reduce(add, [h, *(shift(h) - h for shift in shifts)])

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(value for part in self.parts for value in part.inputs)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return find_networks(*self.parts)


def waves(t: float) -> Tensor:
    """A time as sines and cosines (WAVES,), as in Vaswani et al. 2017.

    Args:
        t: The time, of 1000.
    """
    angles = t * torch.exp(-math.log(10_000) * torch.arange(WAVES // 2) / (WAVES // 2))
    return torch.cat([angles.sin(), angles.cos()])
