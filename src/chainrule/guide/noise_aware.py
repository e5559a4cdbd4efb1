"""Classifier guidance with a classifier that knows noisy latents: Dhariwal & Nichol 2021, section 4.

    eps' = eps + scale sigma d energy(x_t, t) / d x_t

`energy` is -log p(class | x_t, t) in the paper, or any loss of the noisy latent. The generator itself needs no backward
pass, but someone has to have trained the classifier on its noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.denoiser import Denoiser, Prediction, Wrapper
from chainrule.guide.base import pushed

Energy = Callable[[Tensor, float], Tensor]
"""(x_t (B, C, h, w), t) -> (B,), lower where the image should go."""


@dataclass(frozen=True, eq=False)
class NoiseAware(Wrapper):
    """`scale` is in units of the energy."""

    denoiser: Denoiser
    energy: Energy
    scale: float

    def __call__(self, x: Tensor, t: float) -> Prediction:
        prediction = self.denoiser(x, t)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        if alpha == 0.0:  # zero terminal SNR: x_t holds nothing of the image yet, so nothing of it can be pushed
            return prediction
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            leaf = x if differentiable else x.detach().requires_grad_()
            energy = self.energy(leaf, t).sum()
            (gradient,) = torch.autograd.grad(energy, leaf, create_graph=differentiable)
        return pushed(prediction, self.scale * sigma * gradient, alpha, sigma)
