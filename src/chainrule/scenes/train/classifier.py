"""The fine-grained classifiers of the bundled world: one to guide with, one to judge by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
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
    scenes = settings.list_scenes(settings.rebuilt)
    present = mark_present(scenes, SHAPES, lambda thing: thing.shape).to(settings.device)

    def compare(logits: Tensor, index: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, present[index])

    mine = np.arange(0, len(scenes), 2)
    teach(model, settings, "classifier", mine, compare, steps=1800, data=0)


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
    scenes = settings.list_scenes(settings.rebuilt)
    which = torch.tensor([SHAPES.index(scene.things[0].shape) for scene in scenes])
    which = which.to(settings.device)
    mine = np.array([i for i in range(1, len(scenes), 2) if len(scenes[i].things) == 1])

    def compare(logits: Tensor, index: Tensor) -> Tensor:
        return functional.cross_entropy(logits, which[index])

    teach(model, settings, "judge", mine, compare, steps=1800, data=1)


def teach(
    model: nn.Module,
    settings: Settings,
    name: str,
    mine: np.ndarray,
    compare: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int,
    data: int,
    batch: int = BATCH,
    ema: float = 0.995,
    look: Callable[[Tensor, Tensor], Tensor] = lambda x, index: x,
) -> None:
    """Train a classifier on renders and on what the autoencoder makes of them, and write it.

    Args:
        model: The classifier, which is changed.
        settings: Where and how.
        name: The part, as it is called on the command line.
        mine: Which scenes are its own.
        compare: The loss of logits (B, labels), given which scenes they are of (B,).
        steps: How many batches.
        data: The seed of which pictures are in them.
        batch: How many pictures are in each.
        ema: The decay of the weights' average.
        look: What it sees of the pictures (B, 3, 64, 64), given which scenes they are.
    """
    renders, rebuilt = pictures(settings), reconstructions(settings)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = np.sort(np.random.default_rng([step, data]).choice(mine, batch))
        x, order = draw_halves(renders, rebuilt, chosen, settings.device)
        index = torch.from_numpy(order).to(settings.device)
        with autocast(settings):
            logits = model(augment(look(x, index), generator)).logits
        return compare(logits.float(), index)

    fit(name, model, loss, settings, steps=steps, rate=2e-3, ema=ema, weight_decay=0.05)
    save_vision(model, settings.weights / name.replace("-", "_"))
