"""DNO: Tang, Peng, Tang, Hong, Wang & Chang, "Tuning-Free Alignment of Diffusion Models with Direct
Noise Optimization", 2024.

    x_s = alpha_s x0(x_t) + sqrt(sigma_s^2 - c^2) eps(x_t) + c z_k         DDPM's steps, c by eta
    L(x_T, z) = loss(decode(x_0(x_T, z))) + bounds(x_T, z);    AdamW on x_T and all z_k

The bounds are on the mean and the covariance of sub-vectors of all noises
(`chainrule.diffusion.noise_priors`). The last step, to the image, adds no noise: of T steps there
are T noises, x_T included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.noise_priors import NoiseTerm
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.base import State as Latents
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.methods.base import Eta, Steps, Task
from chainrule.methods.doodl import DOODL, DOODLState
from chainrule.methods.noise_optimisation import NoiseOptimisation
from chainrule.optimise import Adam

INJECTED = "ddpm"
"""The stream of the noises before they are optimised: those of every DDPM chain."""


class DNO(NoiseOptimisation):
    """Optimises all the noise of a chain: where it starts, and what is injected at each step.

    Tang, Peng, Tang, Hong, Wang & Chang, "Tuning-Free Alignment of Diffusion Models with Direct
    Noise Optimization", 2024. The gradient is exact, to every noise, at the cost of that to x_T
    alone; the memory grows by five latents a step. The settings are those of the public code, with
    the paper's bounds on how unlikely the noise may become.

    Limits: those of DOODL; from noise only. What it finds is drawn again by all of its noises, not
    by x_T.
    """

    kind: Literal["dno"] = "dno"
    iterations: int = Field(default=100, ge=0, description="How often the noise is improved.")
    steps: Steps = 50
    eta: Eta = 1.0
    optimiser: Adam = Adam(rate=0.01, beta2=0.999, decay=0.01)
    clip_norm: float | None = Field(
        default=1.0, gt=0, description="The bound of the norm of an image's gradient."
    )
    noise_terms: Mapping[NoiseTerm, Annotated[float, Field(gt=0)]] = Field(
        default={"bounds": 1.0},
        description="Terms of the loss that are least for noise, each with its weight: norm, "
        "moments, spectrum, bounds.",
    )

    @property
    def loop(self) -> DOODL:
        return _Loop(
            iterations=self.iterations,
            steps=self.steps,
            eta=self.eta,
            optimiser=self.optimiser,
            clip_norm=self.clip_norm,
            noise_terms=self.noise_terms,
            mix=None,
            perturbation=0.0,
            renormalise=False,
            crops=0,
        )


class _Loop(DOODL):
    """DOODL's loop over P noises: x_T, and one for each step but the last."""

    eta: float

    def start(
        self, task: Task, x_T: Tensor | Latents | None = None, on_step: OnStep | None = None
    ) -> DOODLState:
        if x_T is None:
            first, stream = task.x_T, task.noise.stream(INJECTED)
            drawn = (stream.normal(k, first.shape[1:]) for k in range(self.steps - 1))
            x_T = (first, *(z.to(first) for z in drawn))
        return super().start(task, x_T, on_step)

    def begin_chain(self, task: Task, x_T: Tensor) -> tuple[Solver, Latents]:
        first, *injected = x_T.unbind()
        return DDPM(task.noise.stream(INJECTED), self.eta, given=tuple(injected)), (first,)

    def list_noises(self, x_T: Tensor) -> Latents:
        """All of them as one, whose channels are theirs."""
        return (x_T.transpose(0, 1).flatten(1, 2),)
