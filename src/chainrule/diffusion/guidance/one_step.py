"""Classifier guidance on the one-step guess of the image.

The baseline of the DOODL paper (section 3.2). At each t the network's guess x0 = (x_t -
sigma eps) / alpha is decoded and judged, and the noise is corrected:

    eps' = eps + scale sigma d loss(decode(x0)) / d x_t

The guess of a noisy latent is blurry, so early gradients point elsewhere; that is what
DOODL is about. (DOODL's public code uses the unconditional eps only and blends x0 with x_t;
this is the method as published.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser, find_networks
from chainrule.diffusion.guidance.base import differentiate, push


@dataclass(frozen=True, eq=False)
class OneStep(WrappedDenoiser):
    """A denoiser whose noise is pushed by a loss of the guessed image; a backward pass a call.

    Args:
        denoiser: What is pushed.
        decode: From latents (B, C, h, w) to images (B, 3, H, W) in [0, 1].
        loss: From such images to (B,). One that holds something for each image has
            `select(rows)`; one that asks networks, `networks`.
        scale: In units of the loss.
    """

    denoiser: Denoiser
    decode: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor], Tensor]
    scale: float

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return find_networks(self.denoiser, self.decode, self.loss)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        if alpha == 0.0:  # zero terminal SNR: x_t holds nothing of the image that could be pushed
            return self.denoiser(x, t)
        differentiable = torch.is_grad_enabled() and (x.requires_grad or bool(self.inputs))
        with torch.enable_grad():
            x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
            prediction = self.denoiser(x, t)
            loss = self.loss(self.decode(prediction.x0))
            gradient = differentiate(loss, x, create_graph=differentiable)
        if not differentiable:
            prediction = Prediction(prediction.x0.detach(), prediction.eps.detach())
        return push(prediction, self.scale * sigma * gradient, alpha, sigma)
