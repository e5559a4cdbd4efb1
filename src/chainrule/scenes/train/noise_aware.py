"""The noise-aware classifier of the bundled world: names shapes from noisy latents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from chainrule.models.noise_aware import NoiseAwareClassifier
from chainrule.scenes.base import SHAPES, sample_scene
from chainrule.scenes.train.base import TRAIN_SEEDS, Settings, autocast, fit, latents, save_half
from chainrule.scenes.train.unet import scheduler

BATCH = 128


def train(settings: Settings) -> None:
    """One sigmoid for each shape, at every noise level of the generator's schedule."""
    torch.manual_seed(4)
    model = NoiseAwareClassifier(in_channels=4, width=32, labels=list(SHAPES)).to(settings.device)
    codes = latents(settings)
    scenes = [sample_scene(TRAIN_SEEDS + i) for i in range(len(codes))]
    present = torch.tensor(
        [[float(any(t.shape == s for t in scene.things)) for s in SHAPES] for scene in scenes]
    )
    alpha_bar = scheduler().alphas_cumprod

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.from_numpy(np.random.default_rng([step, 4]).integers(len(codes), size=BATCH))
        t = torch.randint(1000, (BATCH,), generator=generator)
        alpha, sigma = (
            value[:, None, None, None] for value in (alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt())
        )
        x_0 = codes[index].float()
        x_t = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=generator)
        with autocast(settings):
            logits = model(x_t.to(settings.device), t.to(settings.device))
        return functional.binary_cross_entropy_with_logits(
            logits.float(), present[index].to(settings.device)
        )

    fit("noise-aware", model, loss, settings, steps=2500, rate=1.5e-3, ema=0.995, weight_decay=0.05)
    save_half(model, settings.weights / "noise_aware_classifier")
