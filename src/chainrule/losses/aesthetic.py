"""The loss of a rating: towards more beautiful, or less (DOODL section 5.3).

    loss = |a(x_0) - A|        a: a linear or MLP head on CLIP's image embedding, trained on ratings from 1 to 10

The public heads (LAION's, and those of Simulacra Aesthetic Captions) have no non-linearity between their layers, so
their layers are read off their weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.losses.base import Term
from chainrule.losses.clip import Clip, load_clip
from chainrule.vision import load_weights


@dataclass(frozen=True, eq=False)
class Rater:
    """`images (B, 3, H, W) in [0, 1] -> (B,)`: a rating from 1 (ugly) to 10 (beautiful), differentiable."""

    clip: Clip
    head: nn.Module

    def __call__(self, images: Tensor) -> Tensor:
        rating: Tensor = self.head(self.clip.embed_images(images).float())
        return rating.squeeze(1).to(images.dtype)


@dataclass(frozen=True, eq=False)
class Aesthetic(Term):
    """How far the rating is from `target`: 10 for beautiful, 1 for ugly."""

    rater: Rater
    target: float

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"aesthetic={self.target:g}"

    def __call__(self, images: Tensor) -> Tensor:
        return (self.rater(images) - self.target).abs()


def load_rater(
    head: str | Path | None = None, clip: str | Path | None = None, device: str | torch.device = "cpu"
) -> Rater:
    """The bundled rater (None), or a public head (a file) on the embeddings of the `clip` that it was trained with.

    LAION's heads want openai/clip-vit-large-patch14. Raises UserError if the two do not fit together.
    """
    network = load_clip(clip, device)
    layers = linear_layers(load_weights(head or bundled.RATER, "an aesthetic head")).to(device)
    width, expected = network.width, layers[0].in_features
    if width != expected:
        raise UserError(
            f"the aesthetic head reads embeddings of {expected} numbers and {network.name} gives {width}: name the "
            "CLIP that the head was trained with"
        )
    return Rater(network, layers)


def linear_layers(weights: dict[str, Tensor]) -> nn.Sequential:
    """The layers of a head from its state dict, frozen: matrices in the order of the numbers in their names."""
    keys = [key for key, value in weights.items() if key.endswith("weight") and value.ndim == 2]
    keys.sort(key=lambda key: [int(number) for number in re.findall(r"\d+", key)])
    shapes = [tuple(weights[key].shape) for key in keys]
    if not keys or shapes[-1][0] != 1 or any(a[0] != b[1] for a, b in pairwise(shapes)):
        raise UserError("these weights are no aesthetic head: linear layers that end in one number are wanted")
    layers = []
    for key in keys:
        layer = nn.Linear(weights[key].shape[1], weights[key].shape[0])
        bias = weights.get(key.removesuffix("weight") + "bias", torch.zeros(layer.out_features))
        layer.load_state_dict({"weight": weights[key], "bias": bias})
        layers.append(layer)
    return nn.Sequential(*layers).float().eval().requires_grad_(False)
