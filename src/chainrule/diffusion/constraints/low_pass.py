"""Low frequencies: Choi et al., "ILVR: Conditioning Method for DDPM", 2021.

    x_s = x'_s + phi(y_s) - phi(x'_s)            eq. 7, algorithm 1

phi is a low-pass filter that goes down by a factor N and up again, y_s the reference with
noise. The paper resizes both ways; here phi is the orthogonal projection on all that
bicubic enlargement by N can make, so that phi(x_s) = phi(y_s) holds exactly (of resizing
twice it does not).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.diffusion.constraints.base import Reference, StepConstraint
from chainrule.errors import UserError


@dataclass(frozen=True, eq=False)
class LowPass(StepConstraint):
    """Latents whose low frequencies are those of a reference.

    Args:
        reference: Where they come from.
        factor: N, in latent pixels.
        start: The time from which on this holds.
        stop: The time until which it holds, at most `start`.
    """

    reference: Reference
    factor: int
    start: float
    stop: float

    def __call__(self, x: Tensor, s: float, k: int) -> Tensor:
        if not self.stop <= s <= self.start:
            return x
        return x + low_pass(self.reference.at(s, k) - x, self.factor)


def low_pass(x: Tensor, factor: int) -> Tensor:
    """phi(x).

    Args:
        x: (B, C, h, w).
        factor: N, from 1 (nothing is filtered) to the shorter side.

    Raises:
        UserError: If the factor leaves nothing.
    """
    height, width = x.shape[-2:]
    if factor < 1 or factor > min(height, width):
        raise UserError(
            f"a low-pass filter of factor {factor} is not possible",
            f"choose between 1 and {min(height, width)} here",
            "factor",
        )
    return _projection(height, factor).to(x) @ x @ _projection(width, factor).to(x)


@lru_cache
def _projection(side: int, factor: int) -> Tensor:
    """U U^+ (side, side), where U enlarges side / factor numbers; symmetric, float64."""
    coarse = torch.eye(max(1, side // factor), dtype=torch.float64)[None]
    if coarse.shape[-1] == side:
        return coarse[0]
    size = coarse.shape[-1], side
    up = functional.interpolate(coarse[None], size, mode="bicubic", align_corners=False)[0, 0].T
    return up @ torch.linalg.pinv(up)
