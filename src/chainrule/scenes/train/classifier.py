"""The fine-grained classifiers of the bundled world: one to guide with, one to judge by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from chainrule.scenes.base import SHAPES
from chainrule.scenes.train.base import (
    Settings,
    augment,
    autocast,
    draw_halves,
    fit,
    mark_present,
    pictures,
    reconstructions,
    save_vision,
)

BATCH = 96
LABELS = {
    "num_labels": len(SHAPES),
    "id2label": dict(enumerate(SHAPES)),
    "label2id": {shape: i for i, shape in enumerate(SHAPES)},
}


def train(settings: Settings) -> None:
    """The guide: a residual network that says of each shape whether it is there (sigmoids)."""
    torch.manual_seed(3)
    config = ResNetConfig(
        embedding_size=24,
        hidden_sizes=[24, 48, 96],
        depths=[2, 2, 2],
        layer_type="basic",
        hidden_act="silu",
        **LABELS,
    )
    model = ResNetForImageClassification(config).to(settings.device)
    renders, rebuilt = pictures(settings), reconstructions(settings)
    scenes = settings.list_scenes(len(rebuilt))
    present = mark_present(scenes, SHAPES, lambda thing: thing.shape).to(settings.device)
    mine = np.arange(0, len(rebuilt), 2)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = np.sort(np.random.default_rng([step, 0]).choice(mine, BATCH))
        x, index = draw_halves(renders, rebuilt, index, settings.device)
        with autocast(settings):
            logits = model(augment(x, generator)).logits
        return functional.binary_cross_entropy_with_logits(logits.float(), present[index])

    fit("classifier", model, loss, settings, steps=1800, rate=2e-3, ema=0.995, weight_decay=0.05)
    save_vision(model, settings.weights / "classifier")


def train_judge(settings: Settings) -> None:
    """The judge: a ConvNeXt that names the one shape of single things of the data's other half.

    Other architecture, seed, data, labels' loss: what fools the guide need not fool it. No guidance
    ever touches it.
    """
    torch.manual_seed(103)
    config = ConvNextConfig(
        patch_size=4,
        num_stages=3,
        hidden_sizes=[32, 64, 128],
        depths=[2, 2, 2],
        layer_scale_init_value=1.0,  # the usual 1e-6 is for much longer trainings
        **LABELS,
    )
    model = ConvNextForImageClassification(config).to(settings.device)
    renders, rebuilt = pictures(settings), reconstructions(settings)
    scenes = settings.list_scenes(len(rebuilt))
    which = torch.tensor([SHAPES.index(scene.things[0].shape) for scene in scenes])
    mine = np.array([i for i in range(1, len(rebuilt), 2) if len(scenes[i].things) == 1])

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = np.sort(np.random.default_rng([step, 1]).choice(mine, BATCH))
        x, index = draw_halves(renders, rebuilt, index, settings.device)
        target = which[index].to(settings.device)
        with autocast(settings):
            logits = model(augment(x, generator)).logits
        return functional.cross_entropy(logits.float(), target)

    fit("judge", model, loss, settings, steps=1800, rate=2e-3, ema=0.995, weight_decay=0.05)
    save_vision(model, settings.weights / "judge")
