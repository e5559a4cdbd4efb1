"""The autoencoder of the bundled world: 64x64 pixels <-> 4 channels of 16x16."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from chainrule.scenes.train.base import Settings, autocast, fit, pictures, save_half

STEPS = 2_800
BATCH = 32
KL_WEIGHT = 1e-4


def new() -> AutoencoderKL:
    """An untrained autoencoder (1.6 M weights, convolutions only)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def train(settings: Settings) -> None:
    """As `teach`, and write it."""
    torch.manual_seed(0)
    model = new()
    teach(model, settings, steps=STEPS, batch=BATCH)
    save_half(model, settings.weights / "pipeline" / "vae")


def teach(model: AutoencoderKL, settings: Settings, *, steps: int, batch: int) -> None:
    """Absolute and squared error, a little Kullback-Leibler; then the latents are normalised.

    Args:
        model: The autoencoder, which is changed.
        settings: Where and how.
        steps: How many batches.
        batch: How many pictures are in each.
    """
    data = pictures(settings)
    model.to(settings.device, memory_format=torch.channels_last)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = np.random.default_rng(step).integers(len(data), size=batch)
        x = data.batch(index, settings.device).contiguous(memory_format=torch.channels_last)
        with autocast(settings):
            posterior = model.encode(x).latent_dist
            shape = posterior.mean.shape
            noise = torch.randn(shape, generator=generator, device=generator.device)
            z = posterior.mean + posterior.std * noise.to(settings.device)
            x_hat = model.decode(z).sample
        error = x_hat.float() - x
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).float().mean()
        return error.abs().mean() + error.square().mean() + KL_WEIGHT * kl

    fit("autoencoder", model, loss, settings, steps=steps, rate=1.5e-3, ema=0.995)
    with torch.no_grad():
        means = [
            model.encode(data.batch(index, settings.device)).latent_dist.mean
            for index in np.array_split(np.arange(min(4000, len(data))), 40)
        ]
        normalise(model, torch.cat(means))


def normalise(model: AutoencoderKL, z: Tensor) -> None:
    """Fold a rotation to uncorrelated channels and one common scale into the two 1x1 convolutions.

    The picture that a latent stands for does not change: z' = W (z - mean) leaves the encoder, and
    W^-1 z' + mean enters the decoder, with W the principal axes over one standard deviation. (Not
    one for each channel: of the shapes' four, two hold next to nothing, variance 0.01 and 0.07
    beside 2.3 and 11.6, and a generator that had to model their noise at full height drew blobs
    after 12,500 steps.)

    Args:
        model: The autoencoder, which is changed.
        z: Its posterior means of pictures, (N, 4, h, w).
    """
    channels = z.shape[1]
    flat = z.double().transpose(0, 1).reshape(channels, -1)
    mean = flat.mean(dim=1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    w = vectors.T / values.mean().sqrt()
    to, back = model.quant_conv, model.post_quant_conv
    weight, bias = to.weight.double()[:channels, :, 0, 0], to.bias.double()[:channels]
    to.weight.data[:channels, :, 0, 0] = (w @ weight).float()
    to.bias.data[:channels] = (w @ (bias - mean)).float()
    # the posterior's spread, in the new coordinates, is a small constant: nothing samples from it
    to.weight.data[channels:] = 0.0
    to.bias.data[channels:] = -6.0
    inverse = torch.linalg.inv(w)
    back_weight = back.weight.double()[:, :, 0, 0]
    back.bias.data = (back.bias.double() + back_weight @ mean).float()
    back.weight.data[:, :, 0, 0] = (back_weight @ inverse).float()
