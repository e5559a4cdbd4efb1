"""The noise-aware classifier of the bundled worlds: names things from noisy latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from chainrule.models.noise_aware import NoiseAwareClassifier
from chainrule.scenes.base import SHAPES
from chainrule.scenes.train.base import (
    Settings,
    autocast,
    draw_noisy,
    fit,
    latents,
    mark_present,
    save_half,
)
from chainrule.scenes.train.unet import scheduler

BATCH = 128


def train(settings: Settings) -> None:
    """One sigmoid for each shape, at every noise level of the generator's schedule."""
    torch.manual_seed(4)
    model = NoiseAwareClassifier(in_channels=4, width=32, labels=list(SHAPES))
    teach(model, settings, steps=2500, batch=BATCH, say=lambda thing: thing.shape)


def teach(
    model: NoiseAwareClassifier,
    settings: Settings,
    *,
    steps: int,
    batch: int,
    say: Callable[[Any], str],
) -> None:
    """Which labels the clean picture shows, at every noise level; and write the network.

    Args:
        model: The classifier, which is changed.
        settings: Where and how.
        steps: How many batches.
        batch: How many latents are in each.
        say: The label of a thing.
    """
    model.to(settings.device)
    codes = latents(settings)
    present = mark_present(settings.list_scenes(len(codes)), model.labels, say).to(settings.device)
    alpha_bar = scheduler().alphas_cumprod

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = np.random.default_rng([step, 4]).integers(len(codes), size=batch)
        t = torch.randint(1000, (batch,), generator=generator, device=generator.device)
        x_t, _ = draw_noisy(codes, alpha_bar, index, t, generator)
        with autocast(settings):
            logits = model(x_t.to(settings.device), t.to(settings.device))
        wanted = present[torch.from_numpy(index).to(settings.device)]
        each = functional.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
        return each.sum(dim=1).mean() / len(SHAPES)  # a mean over 300 teaches nothing

    fit(
        "noise-aware", model, loss, settings, steps=steps, rate=1.5e-3, ema=0.995, weight_decay=0.05
    )
    save_half(model, settings.weights / "noise_aware_classifier")
