"""ReNO: Eyring, Karthik, Roth, Dosovitskiy & Akata, "ReNO: Enhancing One-step Text-to-Image Models
through Reward-based Noise Optimization", 2024.

    L(x_T) = loss(decode(x_0(x_T))) + 0.01 (|x_T|^2 / 2 - (d - 1) log|x_T|)
    g = dL/dx_T min(1, 0.1 / |dL/dx_T|);    m = 0.9 m + g;    x_T = x_T - 5 (g + 0.9 m)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from chainrule.diffusion.noise_priors import NoiseTerm
from chainrule.methods.base import TUNED_STEPS, Situation, Steps
from chainrule.methods.doodl import DOODL
from chainrule.methods.noise_optimisation import NoiseOptimisation
from chainrule.optimise import Momentum


class ReNO(NoiseOptimisation):
    """Optimises the noise of a model that draws in one step to four.

    Eyring, Karthik, Roth, Dosovitskiy & Akata, "ReNO: Enhancing One-step Text-to-Image Models
    through Reward-based Noise Optimization", 2024. It is DOODL's loop with one latent, Nesterov's
    momentum, a bound on the gradient's norm, and a term that keeps the noise's own norm. The paper
    weighs its rewards so that their sum is about one: a loss much smaller than the noise's term is
    not heard. What needs more steps can be optimised in few and drawn in many (`final_steps`).

    Limits: those of DOODL; from noise only.
    """

    kind: Literal["reno"] = "reno"
    steps: Steps = 1
    optimiser: Momentum = Momentum(rate=5.0, clip=None, momentum=0.9, nesterov=True)
    clip_norm: float | None = Field(
        default=0.1, gt=0, description="The bound of the norm of an image's gradient."
    )
    noise_terms: Mapping[NoiseTerm, Annotated[float, Field(gt=0)]] = Field(
        default={"norm": 0.01},
        description="Terms of the loss that are least for noise, each with its weight: norm, "
        "moments, spectrum, bounds.",
    )
    final_steps: int | None = Field(
        default=None,
        ge=1,
        description="The best noise is drawn again in so many steps at the end, and kept where "
        "that is better.",
    )

    @property
    def loop(self) -> DOODL:
        return DOODL.bare(
            iterations=self.iterations,
            steps=self.steps,
            optimiser=self.optimiser,
            clip_norm=self.clip_norm,
            noise_terms=self.noise_terms,
            final_steps=self.final_steps,
        )

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """The paper's settings; else four steps, and the picture in as many as the world's model
        is drawn in."""
        few = {"steps": 4, "final_steps": TUNED_STEPS}
        return {} if situation.name == "faithful" else few

    def probe(self, steps: int) -> ReNO:
        short = {"steps": steps, "iterations": 1, "final_steps": None}
        return self.model_copy(update=short)
