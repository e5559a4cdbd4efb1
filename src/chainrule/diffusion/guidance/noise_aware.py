"""Classifier guidance with a classifier that knows noisy latents: Dhariwal & Nichol 2021, section 4.

    eps' = eps + scale sigma d energy(x_t, t) / d x_t                       DDIM, algorithm 2: `NoiseAware`
    x_s = N(mu - scale Sigma d energy(x_t, t) / d x_t, Sigma)               DDPM, algorithm 1: `NoiseAwareMean`

`energy` is -log p(class | x_t, t) in the paper, or any loss of the noisy latent. The generator itself needs no backward
pass, but someone has to have trained the classifier on its noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser
from chainrule.diffusion.guidance.base import Energy, pushed, select_energy
from chainrule.diffusion.solvers.base import WrappedSolver, State
from chainrule.diffusion.solvers.ddpm import DDPM


@dataclass(frozen=True, eq=False)
class NoiseAware(WrappedDenoiser):
    """`scale` is in units of the energy."""

    denoiser: Denoiser
    energy: Energy
    scale: float

    def select(self, rows: Sequence[int]) -> NoiseAware:
        return NoiseAware(self.denoiser.select(rows), select_energy(self.energy, rows), self.scale)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        prediction = self.denoiser(x, t)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        if alpha == 0.0:  # zero terminal SNR: x_t holds nothing of the image yet, so nothing of it can be pushed
            return prediction
        return pushed(prediction, self.scale * sigma * energy_gradient(self.energy, x, t), alpha, sigma)


@dataclass(frozen=True, eq=False)
class NoiseAwareMean(WrappedSolver):
    """DDPM's step with its mean moved downhill.

    Sigma shrinks with the step's noise, and the push with it: for DDPM itself (eta 1); with less, use `NoiseAware`.
    """

    solver: DDPM
    energy: Energy
    scale: float

    def select(self, rows: Sequence[int]) -> NoiseAwareMean:
        return NoiseAwareMean(self.solver.select(rows), select_energy(self.energy, rows), self.scale)

    def step(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        after = self.solver.step(denoiser, state, t, s)
        if s > t:
            return after
        down = self.solver.variance(denoiser.schedule, t, s) * energy_gradient(self.energy, state[0], t)
        return self.solver.moved(after, (after[0] - self.scale * down,))


def energy_gradient(energy: Energy, x: Tensor, t: float) -> Tensor:
    """d energy / d x, (B, C, h, w), itself differentiable where `x` wants a gradient."""
    differentiable = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        leaf = x if differentiable else x.detach().requires_grad_()
        return torch.autograd.grad(energy(leaf, t).sum(), leaf, create_graph=differentiable)[0]
