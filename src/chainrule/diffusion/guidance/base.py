"""What guides that push have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Prediction

Energy = Callable[[Tensor, float], Tensor]
"""(x_t (B, C, h, w), t) -> (B,), lower where the image should go.

One that holds something for each image has `select(rows)`; one that asks networks, `networks`."""


def push(prediction: Prediction, change: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """Change the predicted noise, and the picture so that both still make x_t.

    Args:
        prediction: What was said of x_t.
        change: What is added to its noise (B, C, h, w).
        alpha: The share of the picture in x_t, a scalar above 0.
        sigma: The share of the noise in x_t, a scalar.
    """
    return Prediction(prediction.x0 - sigma / alpha * change, prediction.eps + change)


def energy_gradient(energy: Energy, x: Tensor, t: float) -> Tensor:
    """d energy / d x, itself differentiable where `x` wants a gradient.

    Args:
        energy: Of noisy latents.
        x: The noisy latents (B, C, h, w).
        t: Their time.

    Returns:
        (B, C, h, w).
    """
    differentiable = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        leaf = x if differentiable else x.detach().requires_grad_()
        return torch.autograd.grad(energy(leaf, t).sum(), leaf, create_graph=differentiable)[0]
