"""Classifier guidance with a classifier that knows noise: Dhariwal & Nichol 2021, section 4.

    eps' = eps + scale sigma d energy(x_t, t) / d x_t           DDIM, algorithm 2: `NoiseAware`
    x_s = N(mu - scale Sigma d energy(x_t, t) / d x_t, Sigma)   DDPM, algorithm 1: `NoiseAwareMean`

`energy` is -log p(class | x_t, t) in the paper, or any loss of the noisy latent. The
generator itself needs no backward pass, but someone has to have trained the classifier on
its noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser, find_networks
from chainrule.diffusion.guidance.base import Energy, energy_gradient, push
from chainrule.diffusion.solvers.base import State, WrappedSolver
from chainrule.diffusion.solvers.ddpm import DDPM


@dataclass(frozen=True, eq=False)
class NoiseAware(WrappedDenoiser):
    """A denoiser whose noise is pushed downhill.

    Args:
        denoiser: What is pushed.
        energy: The hill.
        scale: In units of the energy.
    """

    denoiser: Denoiser
    energy: Energy
    scale: float

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return find_networks(self.denoiser, self.energy)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        prediction = self.denoiser(x, t)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        if alpha == 0.0:  # zero terminal SNR: x_t holds nothing of the image that could be pushed
            return prediction
        change = self.scale * sigma * energy_gradient(self.energy, x, t)
        return push(prediction, change, alpha, sigma)


@dataclass(frozen=True, eq=False)
class NoiseAwareMean(WrappedSolver):
    """DDPM's step with its mean moved downhill.

    Sigma shrinks with the step's noise, and the push with it: for DDPM itself (eta 1); with less,
    use `NoiseAware`.

    Args:
        solver: What is pushed.
        energy: The hill.
        scale: In units of the energy.
    """

    solver: DDPM
    energy: Energy
    scale: float

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return find_networks(self.solver, self.energy)

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        after = self.solver.step(denoiser, state, k, t, s)
        if s > t:
            return after
        variance = self.solver.variance(denoiser.schedule, t, s)
        down = variance * energy_gradient(self.energy, state[0], t)
        return self.solver.replace_latents(after, (after[0] - self.scale * down,))
