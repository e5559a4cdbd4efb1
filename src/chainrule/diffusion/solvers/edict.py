"""EDICT, exactly invertible.

Wallace, Gokul & Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022.

Two latents take turns: each moves by what the network says of the other, so each move can
be undone, and mixing keeps them together (DOODL eq. 5 and 6; p = 0.93):

    x' = a x + b F(y, t)          y' = a y + b F(x', t)
    x  = p x' + (1-p) y'          y  = p y' + (1-p) x          # the new x

F is the network's own output (the noise, in the paper), so that chains whose alpha starts
at 0 are no exception; for a and b see `chainrule.diffusion.denoiser.Parameterization`.

Who takes the first turn at a step, and which latent is mixed first, differs between the papers and
their code; with strong guidance the results differ visibly. With x and y for the two places of the
state, and k the number of the step in its chain (`turns`):

- "code": the public code of EDICT and of DOODL. x moves first where k is even, y where it is odd;
  x is always mixed first. The default.
- "printed": as the equations above have it, at every step: x moves first, x is mixed first.
- "alternating": the pair changes places after each step, so that both rules change from step to
  step. chainrule's default up to version 0.2; it is neither paper's.

F is the network's own output, so that chains whose alpha starts at 0 are no exception; for a and b
see `chainrule.diffusion.denoiser.Parameterization`. In the papers it is the noise, which makes no
difference for a network that predicts noise. For one that predicts a velocity it does, and much
with strong guidance (`coupling`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser, Epsilon
from chainrule.diffusion.schedule import Schedule
from chainrule.diffusion.solvers.base import Solver, State
from chainrule.errors import UserError

Turns = Literal["code", "printed", "alternating"]
"""Who of EDICT's pair goes first: as in the public code, as printed, or changing places."""

Coupling = Literal["output", "eps"]
"""What EDICT's pair exchanges: the network's own output, or the noise that it stands for."""


class DriftWarning(UserWarning):
    """The two latents of an EDICT chain have come apart: the picture is likely to be ruined."""


@dataclass(frozen=True)
class EDICT(Solver):
    """First order, two network calls a step, exactly invertible.

    Args:
        mix: p, above 0 and at most 1.
        turns: "code", "printed" or "alternating": who goes first, and who is mixed first.
        coupling: "output" or "eps": what F is. The noise is not for chains that start at pure
            noise, where alpha = 0.
        tolerance: A chain that ends with |x - y| / |x| above it warns and names the cures.
    """

    mix: float = 0.93
    turns: Turns = "code"
    coupling: Coupling = "output"
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
        for field, names in (("turns", get_args(Turns)), ("coupling", get_args(Coupling))):
            if getattr(self, field) not in names:
                raise UserError(
                    f"EDICT has no {field} {getattr(self, field)!r}",
                    f"choose among {', '.join(names)}",
                    field,
                )

    def init(self, x: Tensor) -> State:
        return (x, x)

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        p, swapped = self.mix, self._swapped(k)
        a, b = self._coefficients(denoiser, t, s)
        x, y = state[::-1] if swapped else state
        x = a * x + b * self._f(denoiser, y, t)
        y = a * y + b * self._f(denoiser, x, t)
        x, y = (y, x) if swapped else (x, y)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        return (y, x) if self.turns == "alternating" else (x, y)

    def inverse(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        p, swapped = self.mix, self._swapped(k)
        a, b = self._coefficients(denoiser, t, s)
        x, y = state[::-1] if self.turns == "alternating" else state
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        x, y = (y, x) if swapped else (x, y)
        y = (y - b * self._f(denoiser, x, t)) / a
        x = (x - b * self._f(denoiser, y, t)) / a
        return (y, x) if swapped else (x, y)

    def _swapped(self, k: int) -> bool:
        """Whether the second latent moves first."""
        return self.turns == "code" and k % 2 == 1

    def _coefficients(self, denoiser: Denoiser, t: float, s: float) -> tuple[Tensor, Tensor]:
        """a and b of a step."""
        schedule: Schedule = denoiser.schedule
        if self.coupling == "output":
            return denoiser.parameterization.coefficients(schedule, t, s)
        if schedule.alpha(t) == 0.0:
            raise UserError(
                "EDICT cannot be coupled in eps where a chain starts at pure noise",
                'use coupling="output"',
                "coupling",
            )
        return Epsilon().coefficients(schedule, t, s)

    def _f(self, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
        """F(x, t)."""
        return denoiser.output(x, t) if self.coupling == "output" else denoiser(x, t).eps

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
