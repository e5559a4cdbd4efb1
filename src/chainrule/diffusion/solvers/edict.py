"""EDICT, exactly invertible.

Wallace, Gokul & Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022.

Two latents take turns: each moves by what the network says of the other, so each move can
be undone, and mixing keeps them together (DOODL eq. 5 and 6; p = 0.93):

    x' = a x + b F(y, t)          y' = a y + b F(x', t)
    x  = p x' + (1-p) y'          y  = p y' + (1-p) x          # the new x

F is the network's own output (the noise, in the paper), so that chains whose alpha starts
at 0 are no exception; for a and b see `chainrule.diffusion.denoiser.Parameterization`.

The papers print the same order at every step; the public code of both alternates the roles
of x and y. Alternating keeps the pair closer, so it is the default; `alternate=False` is
the printed order.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.solvers.base import Solver, State
from chainrule.errors import UserError


class DriftWarning(UserWarning):
    """The two latents of an EDICT chain have come apart: the picture is likely to be ruined."""


@dataclass(frozen=True)
class EDICT(Solver):
    """First order, two network calls a step, exactly invertible.

    Args:
        mix: p, above 0 and at most 1.
        alternate: Swap the roles of the pair after each step.
        tolerance: A chain that ends with |x - y| / |x| above it warns and names the cures.
    """

    mix: float = 0.93
    alternate: bool = True
    tolerance: float = 0.3

    order = 1
    calls = 2
    reversible = True

    def __post_init__(self) -> None:
        if not 0.0 < self.mix <= 1.0:
            raise UserError(
                f"EDICT's mixing weight must be above 0 and at most 1, not {self.mix}",
                "0.93 is usual",
                "mix",
            )

    def init(self, x: Tensor) -> State:
        return (x, x)

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        p = self.mix
        x, y = state
        a, b = denoiser.parameterization.coefficients(denoiser.schedule, t, s)
        x = a * x + b * denoiser.output(y, t)
        y = a * y + b * denoiser.output(x, t)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        return (y, x) if self.alternate else (x, y)

    def inverse(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        p = self.mix
        y, x = state if self.alternate else state[::-1]
        a, b = denoiser.parameterization.coefficients(denoiser.schedule, t, s)
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        y = (y - b * denoiser.output(x, t)) / a
        x = (x - b * denoiser.output(y, t)) / a
        return (x, y)

    def latents(self, state: State) -> State:
        return state

    def check(self, state: State) -> None:
        x, y = (latent.detach().flatten(1).double() for latent in state)
        drift = ((x - y).norm(dim=1) / x.norm(dim=1)).max().item()
        if drift > self.tolerance:
            warnings.warn(
                "the two latents of the EDICT chain have drifted apart "
                f"(|x - y| / |x| = {drift:.2f}): take more steps, "
                f"a lower guidance scale or a lower mix than {self.mix}",
                DriftWarning,
                stacklevel=2,
            )
