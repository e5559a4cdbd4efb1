"""Losses on what a network sees: content (perceptual) and style (Gatys, Ecker & Bethge 2016).

    content = mean over layers of |F - F'|^2
    style = mean over layers of |G - G'|^2 / |G'|^2,    G = F F^T / (C h w)

F (C, h w) are the features of one layer, of the image and of the picture that it should be like. The layers' weights
are the paper's free choice: divided by |G'|^2, none drowns the others, and an image without any features has style 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.losses.base import Term
from chainrule.vision import Preprocess, load_pretrained, load_weights, scaled

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The mean and the standard deviation of its colours."""


class Features(ABC):
    """A frozen network whose inner layers say what an image looks like."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """The features of `images` (B, 3, H, W) in [0, 1], one (B, C, n) for each layer, n places."""


VGG_CHANNELS: dict[int, tuple[int | str, ...]] = {
    16: (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
    19: (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
}
"""Simonyan & Zisserman 2015, table 1, configurations D and E: the width of each convolution; M halves the size."""


class Vgg(Features):
    """VGG-16 or VGG-19 after the first convolution of each block, from torchvision's usual state dict."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        convolutions = [key for key in weights if key.startswith("features.") and weights[key].ndim == 4]
        depth = {13: 16, 16: 19}.get(len(convolutions))
        if depth is None:
            raise UserError(
                f"these weights have {len(convolutions)} convolutions, VGG-16 has 13 and VGG-19 has 16: give the usual "
                "state dict of one of them, without batch normalisation"
            )
        layers: list[nn.Module] = []
        before = 3
        for width in VGG_CHANNELS[depth]:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
        self.layers = nn.Sequential(*layers)
        self.layers.load_state_dict(
            {key.removeprefix("features."): value for key, value in weights.items() if key.startswith("features.")}
        )
        self.layers.eval().requires_grad_(False)
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        self.taken = {1, *(pool + 2 for pool in pools[:-1])}

    def __call__(self, images: Tensor) -> list[Tensor]:
        found, x = [], Preprocess((images.shape[-2], images.shape[-1]), *IMAGENET)(images)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.taken:
                found.append(x.flatten(2).to(images.dtype))
        return found


@dataclass(frozen=True, eq=False)
class Backbone(Features):
    """The fill_in states of any `transformers` vision network; `layers` picks some (None: all but the input's)."""

    network: Any
    preprocess: Preprocess
    layers: tuple[int, ...] | None = None

    def __call__(self, images: Tensor) -> list[Tensor]:
        states = self.network(self.preprocess(images), output_hidden_states=True).hidden_states
        chosen = states[1:] if self.layers is None else [states[i] for i in self.layers]
        # (B, C, h, w) of convolutional networks, (B, n, C) of transformers
        return [(s.flatten(2) if s.ndim == 4 else s.transpose(1, 2)).to(images.dtype) for s in chosen]


def load_vgg(path: str | Path, device: str | torch.device = "cpu") -> Vgg:
    """VGG-16 or VGG-19 from torchvision's state dict (`.pth`) or the same in safetensors."""
    vgg = Vgg(load_weights(path, "a VGG"))
    vgg.layers.to(device)
    return vgg


def load_backbone(name: str | Path | None = None, device: str | torch.device = "cpu") -> Backbone:
    """The bundled classifier (None), or any `transformers` vision network by folder or hub name.

    Raises UserError if there is none of that name.
    """
    network, preprocess = load_pretrained("AutoModel", name or bundled.CLASSIFIER, "vision network")
    return Backbone(getattr(network, "vision_model", network).to(device), preprocess)


@dataclass(frozen=True, eq=False)
class Perceptual(Term):
    """How far the image's features are from those of `picture` (3, h, w), at the image's own places.

    Or of a picture of its own: `picture` (B, 3, h, w) has one for each image.
    """

    features: Features
    picture: Tensor
    name: str = "perceptual"
    whole = True

    def __call__(self, images: Tensor) -> Tensor:
        picture = self.picture if self.picture.ndim == 4 else self.picture[None]
        return _mean_square(self.features(images), self.features(scaled(picture, images)))


@dataclass(frozen=True, eq=False)
class Style(Term):
    """How far the Gram matrices of the image's features are from those of `picture` (3, h, w)."""

    features: Features
    picture: Tensor
    name: str = "style"

    @cached_property
    def _wanted(self) -> list[Tensor]:
        with torch.no_grad():
            return [gram(layer) for layer in self.features(self.picture[None])]

    def __call__(self, images: Tensor) -> Tensor:
        wanted = [layer.to(images) for layer in self._wanted]
        pairs = zip(self.features(images), wanted, strict=True)
        off = [(gram(layer) - w).square().sum(dim=(1, 2)) / w.square().sum() for layer, w in pairs]
        return torch.stack(off).mean(dim=0)


def gram(features: Tensor) -> Tensor:
    """Which features occur together: (B, C, n) -> (B, C, C)."""
    return features @ features.mT / features[0].numel()


def _mean_square(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    return torch.stack([(f - w).square().mean(dim=(1, 2)) for f, w in zip(found, wanted, strict=True)]).mean(dim=0)
