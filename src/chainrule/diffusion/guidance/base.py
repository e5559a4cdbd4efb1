"""What guides that push have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Prediction
from chainrule.errors import UserError

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
        return differentiate(energy(leaf, t), leaf, create_graph=differentiable)


def differentiate(losses: Tensor, x: Tensor, *, create_graph: bool) -> Tensor:
    """d sum(losses) / d x, (B, C, h, w).

    Args:
        losses: (B,), a number for each image.
        x: What they were computed from (B, C, h, w).
        create_graph: Whether the gradient itself is to be differentiated.

    Raises:
        UserError: They do not depend on it, or are no numbers of each image.
    """
    if not isinstance(losses, Tensor) or losses.shape != x.shape[:1]:
        found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise UserError(
            f"what guides must give one number for each image, and gives {found}",
            f"give a tensor of shape {tuple(x.shape[:1])}",
            "loss",
        )
    gradient = None
    if losses.requires_grad:
        (gradient,) = torch.autograd.grad(
            losses.sum(), x, create_graph=create_graph, allow_unused=True
        )
    if gradient is None:
        raise UserError(
            "what guides does not depend on the images in a way that can be differentiated",
            "compute it from them with torch alone, without detach(), item() or numpy",
            "loss",
        )
    return gradient
