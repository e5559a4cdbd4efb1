"""Truncated backpropagation: the network's Jacobian is taken in the last steps of a chain only.

    x_s = a x_t + b F(x_t)        dL/dx_t = a dL/dx_s + b J^T dL/dx_s,    J = dF/dx_t

with J = 0 in all steps but the last K (for any solver: its step, with the network's output held).
Clark, Vicol, Swersky & Fleet, "Directly Fine-Tuning Diffusion Models on Differentiable Rewards",
2023 (DRaFT-K), do so for weights, and let go of the early a as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser
from chainrule.diffusion.gradient.base import Chain, Gradient
from chainrule.diffusion.gradient.checkpoint import Checkpoint
from chainrule.diffusion.solvers.base import State
from chainrule.errors import UserError


@dataclass(frozen=True)
class Truncated(Gradient):
    """An approximate gradient: of each step but the last ones, only what the solver does itself.

    It costs one pass for each of the early steps, and three for each of the last ones. What the
    network is told, and its weights, are heard in the last steps only. From noise it found better
    images than the exact gradient did (`benchmarks/ladder.py`).

    Args:
        last: In how many steps the network is differentiated, the last ones, K.
        keep: How many of them, the last ones, keep their graphs and are not rebuilt.
    """

    last: int = 5
    keep: int = 0

    def __post_init__(self) -> None:
        if self.last < 1:
            raise UserError(
                f"Truncated cannot differentiate the last {self.last} steps",
                "choose 1 or more",
                "last",
            )

    def integrate(self, chain: Chain, state: State) -> State:
        split = max(len(chain) - self.last, 0)
        held = chain.replace_denoiser(_Held(chain.denoiser))
        return Checkpoint(self.keep).integrate(chain.rest(split), held.last(state, stop=split))


@dataclass(frozen=True, eq=False)
class _Held(WrappedDenoiser):
    """What another denoiser says, as if the network's output did not depend on anything."""

    denoiser: Denoiser

    def __call__(self, x: Tensor, t: float) -> Prediction:
        with torch.no_grad():
            said = self.denoiser(x, t)
            alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
            f = self.parameterization.output(said, alpha, sigma)
        # what was said to the bit, with the slope in x that there is where f is held
        line = self.parameterization.prediction(x, f, alpha, sigma)
        return said.combine(line, lambda value, slope: value + (slope - slope.detach()))
