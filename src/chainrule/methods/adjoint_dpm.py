"""Guided sampling as in AdjointDPM: Pan et al. 2024, section 4.1.1 and appendix B."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chainrule.methods.base import Steps
from chainrule.methods.doodl import DOODL
from chainrule.methods.noise_optimisation import NoiseOptimisation
from chainrule.optimise import Adam


class AdjointDPM(NoiseOptimisation):
    """Optimises the starting noise with AdamW through Euler's method: 31 steps, 30 epochs.

        x_T = AdamW(x_T, dL/dx_T),    x_0 = Euler(x_T)

    Pan, Liew, Tan, Feng & Yan, "AdjointDPM: Adjoint Sensitivity Method for Gradient
    Backpropagation of Diffusion Probabilistic Models", 2024, section 4.1.1. It is DOODL's loop
    with one latent instead of a pair, another optimiser, and nothing done to the noise in between.
    The paper's gradient is the continuous adjoint's (`adjoint`), which is off by an angle
    (`benchmarks/adjoint.py`); the default is the exact one, at the same number of network calls.
    In our trials the wrong one found more of what was asked for (`benchmarks/guided.py`).

    Limits: those of DOODL; from noise only.
    """

    kind: Literal["adjoint-dpm"] = "adjoint-dpm"
    iterations: int = Field(default=30, ge=0, description="How often the noise is improved.")
    steps: Steps = 31
    optimiser: Adam = Adam(rate=0.1, beta2=0.999, decay=0.01)
    adjoint: bool = Field(
        default=False, description="The paper's own approximate gradient instead of the exact one."
    )

    @property
    def loop(self) -> DOODL:
        """The optimisation that this is. The paper gives no learning rate; see `guided.py`."""
        return DOODL.bare(
            iterations=self.iterations,
            steps=self.steps,
            optimiser=self.optimiser,
            adjoint=self.adjoint,
        )
