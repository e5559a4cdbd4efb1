"""Low frequencies: Choi et al., "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models", 2021.

    x_s = x'_s + phi(y_s) - phi(x'_s)            eq. 7, algorithm 1

phi is a low-pass filter that goes down by a factor N and up again, y_s the reference with noise. The paper resizes both
ways; here phi is the orthogonal projection on all that bicubic enlargement by N can make, so that phi(x_s) = phi(y_s)
holds exactly (of resizing twice it does not).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.diffusion.constraints.base import StepConstraint, Reference
from chainrule.errors import UserError

LOW = 1 << 25
"""The first draw of the reference's noise."""


@dataclass(frozen=True, eq=False)
class LowPass(StepConstraint):
    """From time `start` down to `stop`, the low frequencies of the `reference`; `factor` is N, in latent pixels."""

    reference: Reference
    factor: int
    start: float
    stop: float

    def __call__(self, x: Tensor, s: float, k: int) -> Tensor:
        if not self.stop <= s <= self.start:
            return x
        return x + low_pass(self.reference.at(s, k) - x, self.factor)

    def select(self, rows: Sequence[int]) -> LowPass:
        return replace(self, reference=self.reference.select(rows))


def low_pass(x: Tensor, factor: int) -> Tensor:
    """phi(`x`), (B, C, h, w); raises UserError if the factor leaves nothing of it."""
    height, width = x.shape[-2:]
    if factor < 1 or factor > min(height, width):
        raise UserError(f"the factor of a low-pass filter is between 1 and {min(height, width)} here, not {factor}")
    return projection(height, factor).to(x) @ x @ projection(width, factor).to(x)


@lru_cache
def projection(side: int, factor: int) -> Tensor:
    """U U^+ (side, side), where U enlarges side / factor numbers to `side`; symmetric, float64."""
    coarse = torch.eye(max(1, side // factor), dtype=torch.float64)[None]
    if coarse.shape[-1] == side:
        return coarse[0]
    up = functional.interpolate(coarse[None], (coarse.shape[-1], side), mode="bicubic", align_corners=False)[0, 0].T
    return up @ torch.linalg.pinv(up)
