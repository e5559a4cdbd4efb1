"""The noise-aware image encoder of the bundled world (Liu et al. 2021, section 3.2).

It sees a noisy latent and its timestep and says what the bundled CLIP says of the clean picture:
among the pictures of its batch it tells the one that the latent was made of, and comes close to its
embedding. Captions are not needed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from chainrule.bundled import SCENES
from chainrule.losses.clip import load_clip
from chainrule.models.noise_aware import NoiseAwareEncoder
from chainrule.scenes.train.base import (
    Settings,
    autocast,
    draw_noisy,
    fit,
    latents,
    pictures,
    save_half,
)
from chainrule.scenes.train.unet import scheduler

BATCH = 256
TEMPERATURE, APART = 0.07, 0.2
"""Of telling the pictures of a batch apart, and its weight beside the distance to the embedding."""


@torch.no_grad()
def embeddings(settings: Settings) -> Tensor:
    """What the bundled CLIP says of each training picture, unit vectors (N, D)."""
    data, clip = (
        pictures(settings),
        load_clip(settings.weights / SCENES.clip.name, settings.device),
    )
    index = np.arange(len(data))
    parts = [
        data.batch(some, settings.device) / 2 + 0.5
        for some in np.array_split(index, -(-len(data) // 500))
    ]
    return torch.cat([clip.embed_images(part).cpu() for part in parts])


def train(
    settings: Settings, *, channels: int = 4, width: int = 40, steps: int = 3000, batch: int = BATCH
) -> None:
    """At every noise level of the generator's schedule.

    Args:
        settings: Where and how.
        channels: Of the latents.
        width: Of the network's first block.
        steps: How many batches.
        batch: How many latents are in each.
    """
    torch.manual_seed(5)
    codes, wanted = latents(settings), embeddings(settings).to(settings.device)
    model = NoiseAwareEncoder(in_channels=channels, width=width, dim=wanted.shape[1])
    model.to(settings.device)
    alpha_bar = scheduler().alphas_cumprod

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = np.random.default_rng([step, 5]).choice(len(codes), size=batch, replace=False)
        t = torch.randint(1000, (batch,), generator=generator, device=generator.device)
        x_t, _ = draw_noisy(codes, alpha_bar, index, t, generator)
        with autocast(settings):
            found = model(x_t.to(settings.device), t.to(settings.device))
        found = normalize(found.float(), dim=1)
        aim = normalize(wanted[torch.from_numpy(index).to(settings.device)], dim=1)
        logits = found @ aim.T / TEMPERATURE
        return (
            APART * cross_entropy(logits, torch.arange(batch, device=aim.device))
            + (1 - (found * aim).sum(dim=1)).mean()
        )

    fit("semantic", model, loss, settings, steps=steps, rate=2e-3, ema=0.995, weight_decay=0.05)
    save_half(model, settings.weights / SCENES.noise_aware_encoder.name)
