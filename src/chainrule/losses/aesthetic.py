"""The loss of a rating: towards more beautiful, or less (DOODL section 5.3).

    loss = |a(x_0) - A|        a: a linear or MLP head on CLIP's image embedding

The head is trained on ratings from 1 to 10. Of the public heads, LAION's (sa_0_4_*) is one layer,
and those of Schuhmann's improved-aesthetic-predictor are five, with ReLU between them
(ava+logos-l14-reluMSE) or without (sac+logos+ava1-l14-linearMSE): the names of their weights tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from chainrule.brief import Brief
from chainrule.bundled import find_network
from chainrule.errors import UserError
from chainrule.losses.base import LossSpec, Term
from chainrule.losses.clip import Clip, load_clip
from chainrule.specs import NetworkName, OwnNetwork
from chainrule.vision import load_weights

TRAINED_WITH = {512: "openai/clip-vit-base-patch32", 768: "openai/clip-vit-large-patch14"}
"""The CLIP of most public heads, by the numbers of its embedding."""


@dataclass(frozen=True, eq=False)
class Rater(Brief):
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
    rater: OwnNetwork = Field(
        None,
        description="An aesthetic head (a file) for the CLIP, or a world's; that of the model's "
        "world.",
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
    """The rater of a world, or a public head on the embeddings of its CLIP.

    Args:
        head: The weights of a head (a file), or the name of a world ("sprites"); None: the shapes'.
        clip: The CLIP that the head was trained with, as in `load_clip`; None: the shapes'. LAION's
            heads want openai/clip-vit-large-patch14.
        device: Where they work.

    Raises:
        UserError: One of the two is not there, or they do not fit together.
    """
    network = load_clip(clip, device)
    weights = load_weights(find_network(head, "rater"), "an aesthetic head")
    layers = read_head(weights).to(device)
    width, expected = network.width, int(cast(nn.Linear, layers[0]).in_features)
    if width != expected:
        usual = f", often {TRAINED_WITH[expected]}" if expected in TRAINED_WITH else ""
        raise UserError(
            f"the aesthetic head reads embeddings of {expected} numbers and {network.name} "
            f"gives {width}",
            f"name the CLIP that the head was trained with{usual}",
            "clip",
        )
    return Rater(network, layers)


def read_head(weights: dict[str, Tensor]) -> nn.Sequential:
    """The layers of a head from its state dict, frozen; dropout, which judges nothing, is left out.

    Each layer is named with its place in an `nn.Sequential`, and only linear ones have weights. So
    the gaps tell what is between two of them:

        0, 1      nothing
        0, 2      one layer: dropout, or ReLU
        0, 3      two: ReLU and dropout

    One layer is ReLU where another gap has two (0, 3, 6, 9, 11: improved-aesthetic-predictor with
    ReLU), and dropout where another has none (0, 2, 4, 6, 7: without).

    Args:
        weights: The head's state dict.

    Raises:
        UserError: They are not linear layers that end in one number, or their numbers do not say
            what is between them.
    """
    keys = {key.rpartition(".")[0] for key in weights}
    places = {_place(key): key for key in keys}
    shapes = [_shape(weights, places[place]) for place in sorted(places)]
    known = {f"{key}.{part}".lstrip(".") for key in keys for part in ("weight", "bias")}
    if (
        len(places) < len(keys)
        or () in shapes
        or not set(weights) <= known
        or shapes[-1][0] != 1
        or any(a[0] != b[1] for a, b in pairwise(shapes))
    ):
        raise UserError(
            "these weights are not an aesthetic head",
            "linear layers that end in one number are wanted, numbered by their places",
            "rater",
        )
    layers: list[nn.Module] = []
    gaps = [after - before for before, after in pairwise(sorted(places))]
    for place, relu in zip(sorted(places), [*_find_relus(gaps), False], strict=True):
        key = f"{places[place]}.".lstrip(".")
        weight = weights[f"{key}weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        bias = weights.get(f"{key}bias", torch.zeros(layer.out_features))
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [layer, nn.ReLU()] if relu else [layer]
    return nn.Sequential(*layers).float().eval().requires_grad_(False)


def _place(key: str) -> int:
    """The place of a layer in its sequence, which ends its name; a single layer may have none."""
    last = key.rpartition(".")[2]
    return int(last) if last.isdecimal() else 0


def _shape(weights: dict[str, Tensor], key: str) -> tuple[int, ...]:
    """The shape (after, before) of a linear layer; empty if it is none."""
    prefix = f"{key}.".lstrip(".")
    weight, bias = weights.get(f"{prefix}weight"), weights.get(f"{prefix}bias")
    if weight is None or weight.ndim != 2 or not weight.is_floating_point():
        return ()
    if bias is not None and bias.shape != weight.shape[:1]:
        return ()
    return tuple(weight.shape)


def _find_relus(gaps: list[int]) -> list[bool]:
    """Whether ReLU is in each gap between two linear layers; a gap of 1 has nothing in it."""
    if max(gaps, default=1) > 3:
        raise UserError(
            "between two layers of the aesthetic head there are more than ReLU and dropout",
            "linear layers with these two are supported",
            "rater",
        )
    both, none = 3 in gaps, 1 in gaps
    if 2 in gaps and both == none:
        raise UserError(
            "the numbers of the aesthetic head's layers leave open whether ReLU or dropout is "
            "between them",
            "number them 0, 3, 6, ... if it is ReLU, and 0, 1, 2, ... if it is dropout",
            "rater",
        )
    return [gap == 3 or (gap == 2 and both) for gap in gaps]
