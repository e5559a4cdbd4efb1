"""What diffusion networks are trained by: one call at a random time.

    L = mean |F(x_t, t, c) - F*|^2,    x_t = alpha(t) x_0 + sigma(t) eps

where F* is the output that a network of the same parameterization should have given: the noise
(Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models", 2020, eq. 14), or a velocity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioned, Denoiser, Prediction, repeat
from chainrule.diffusion.schedule import Schedule
from chainrule.errors import UserError


def matching_loss(told: Denoiser, x_0: Tensor, eps: Tensor, times: Tensor) -> Tensor:
    """How far a network's output is from what it should be, for each image, (B,).

    Its gradient reaches the conditioning and the weights that want one.

    Args:
        told: The network and what it is told, unguided (`Model.denoiser` at a scale of 1).
        x_0: The pictures' latents (B, C, h, w).
        eps: The noise, as `x_0`.
        times: The time of each image (B,).

    Raises:
        UserError: The network is guided, which it never is in training.
    """
    if not isinstance(told, Conditioned):
        raise UserError(
            f"a {type(told).__name__} cannot be trained",
            "give the network unguided, as model.denoiser(prompt, guidance_scale=1)",
            "denoiser",
        )
    schedule, network = told.schedule, told.network
    noisy, wanted = [], []
    for z, noise, t in zip(x_0, eps, times.tolist(), strict=True):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        noisy.append(schedule.mix(z, noise, t))
        wanted.append(network.parameterization.output(Prediction(z, noise), alpha, sigma))
    said = network(torch.stack(noisy), times, repeat(told.conditioning, len(x_0)))
    return (said - torch.stack(wanted)).square().flatten(1).mean(dim=1)


def training_times(schedule: Schedule, uniform: Tensor) -> Tensor:
    """Training timesteps from uniform numbers: each is as likely.

    Args:
        schedule: What the times mean.
        uniform: Numbers (B,) from 0 to 1, without 1.

    Returns:
        (B,), from 0 to `schedule.last`, float64.
    """
    return (uniform.double() * (schedule.last + 1)).floor()
