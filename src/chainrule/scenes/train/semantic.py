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
from chainrule.scenes.train.base import Settings, autocast, fit, latents, pictures, save_half
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


def train(settings: Settings) -> None:
    """At every noise level of the generator's schedule."""
    torch.manual_seed(5)
    codes, wanted = latents(settings), embeddings(settings)
    model = NoiseAwareEncoder(in_channels=4, width=40, dim=wanted.shape[1]).to(settings.device)
    alpha_bar = scheduler().alphas_cumprod

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.from_numpy(
            np.random.default_rng([step, 5]).choice(len(codes), size=BATCH, replace=False)
        )
        t = torch.randint(1000, (BATCH,), generator=generator)
        alpha, sigma = (
            value[:, None, None, None] for value in (alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt())
        )
        x_0 = codes[index].float()
        x_t = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=generator)
        with autocast(settings):
            found = model(x_t.to(settings.device), t.to(settings.device))
        found, aim = normalize(found.float(), dim=1), wanted[index].to(settings.device)
        logits = found @ aim.T / TEMPERATURE
        return (
            APART * cross_entropy(logits, torch.arange(BATCH, device=aim.device))
            + (1 - (found * aim).sum(dim=1)).mean()
        )

    fit("semantic", model, loss, settings, steps=3000, rate=2e-3, ema=0.995, weight_decay=0.05)
    save_half(model, settings.weights / SCENES.noise_aware_encoder.name)
