"""The loss of a rating: towards more beautiful, or less (DOODL section 5.3).

    loss = |a(x_0) - A|        a: a linear or MLP head on CLIP's image embedding

The head is trained on ratings from 1 to 10. The public heads (LAION's, and those of Simulacra
Aesthetic Captions) have no non-linearity between their layers, so their layers are read off their
weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.losses.base import LossSpec, Term
from chainrule.losses.clip import Clip, load_clip
from chainrule.specs import NetworkName
from chainrule.vision import load_weights


@dataclass(frozen=True, eq=False)
class Rater:
    """`images (B, 3, H, W) in [0, 1] -> (B,)`: a rating from 1 (ugly) to 10 (beautiful).

    Args:
        clip: Who embeds the images.
        head: From embeddings (B, D) to ratings (B, 1).
    """

    clip: Clip
    head: nn.Module

    def __call__(self, images: Tensor) -> Tensor:
        rating: Tensor = self.head(self.clip.embed_images(images).float())
        return rating.squeeze(1).to(images.dtype)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks."""
        return (*self.clip.networks, self.head)


@dataclass(frozen=True, eq=False)
class Aesthetic(Term):
    """How far the rating is from the one that is wanted.

    Args:
        rater: Who rates.
        target: The rating: 10 for beautiful, 1 for ugly.
    """

    rater: Rater
    target: float

    @property
    def name(self) -> str:
        return f"aesthetic={self.target:g}"

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.rater.networks

    def __call__(self, images: Tensor) -> Tensor:
        return (self.rater(images) - self.target).abs()


class AestheticSpec(LossSpec):
    """That people would give the image a rating."""

    hint: ClassVar[str] = "aesthetic=10"
    kind: Literal["aesthetic"] = "aesthetic"
    target: float = Field(
        allow_inf_nan=False, description="The rating: 10 for beautiful, 1 for ugly."
    )
    rater: NetworkName | None = Field(
        None, description="An aesthetic head (a file) for the CLIP; the bundled one."
    )
    clip: Annotated[dict[NetworkName, float], Field(min_length=1, max_length=1)] = Field(
        {"": 1.0},
        description="The CLIP that the head was trained with (its weight has no meaning here).",
    )

    def load(self, device: str | torch.device = "cpu") -> Aesthetic:
        (clip,) = self.clip
        return Aesthetic(load_rater(self.rater, clip or None, device), self.target)


def load_rater(
    head: str | Path | None = None,
    clip: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Rater:
    """The bundled rater, or a public head on the embeddings of its CLIP.

    Args:
        head: The weights of a head (a file); None: the bundled one.
        clip: The CLIP that the head was trained with; None: the bundled one. LAION's heads want
            openai/clip-vit-large-patch14.
        device: Where they work.

    Raises:
        UserError: One of the two is not there, or they do not fit together.
    """
    network = load_clip(clip, device)
    weights = load_weights(head or bundled.RATER, "an aesthetic head")
    layers = linear_layers(weights).to(device)
    width, expected = network.width, layers[0].in_features
    if width != expected:
        raise UserError(
            f"the aesthetic head reads embeddings of {expected} numbers and {network.name} "
            f"gives {width}",
            "name the CLIP that the head was trained with",
        )
    return Rater(network, layers)


def linear_layers(weights: dict[str, Tensor]) -> nn.Sequential:
    """The layers of a head from its state dict, frozen, in the order of the numbers in their names.

    Raises:
        UserError: They are not linear layers that end in one number.
    """
    keys = [key for key, value in weights.items() if key.endswith("weight") and value.ndim == 2]
    keys.sort(key=lambda key: [int(number) for number in re.findall(r"\d+", key)])
    shapes = [tuple(weights[key].shape) for key in keys]
    if not keys or shapes[-1][0] != 1 or any(a[0] != b[1] for a, b in pairwise(shapes)):
        raise UserError(
            "these weights are not an aesthetic head",
            "linear layers that end in one number are wanted",
        )
    layers = []
    for key in keys:
        layer = nn.Linear(weights[key].shape[1], weights[key].shape[0])
        bias = weights.get(key.removesuffix("weight") + "bias", torch.zeros(layer.out_features))
        layer.load_state_dict({"weight": weights[key], "bias": bias})
        layers.append(layer)
    return nn.Sequential(*layers).float().eval().requires_grad_(False)
