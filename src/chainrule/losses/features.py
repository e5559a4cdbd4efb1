"""What the inner layers of a frozen network see in an image."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from chainrule.brief import Brief
from chainrule.bundled import find_network
from chainrule.errors import UserError
from chainrule.losses.base import PictureLossSpec
from chainrule.specs import OwnNetwork, expand
from chainrule.vision import Portable, Preprocess, asking, load_pretrained, load_weights

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The mean and the standard deviation of its colours."""

BLOCKS: dict[int, tuple[tuple[int, int], ...]] = {
    16: ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    19: ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
}
"""Simonyan & Zisserman 2015, table 1, D and E: each block's (width, number of convolutions)."""


class Features(Brief, ABC):
    """A frozen network whose inner layers say what an image looks like."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """The features of each layer, (B, C, n) with n places.

        Args:
            images: Images (B, 3, H, W) in [0, 1].
        """

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks."""
        return ()


class Vgg(Features):
    """VGG-16 or VGG-19 after the first convolution of each block.

    Args:
        weights: torchvision's usual state dict.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        if any(re.fullmatch(r"lin\d\.model\.1\.weight", key) for key in weights):
            raise UserError(
                "these weights are LPIPS's, how much each layer counts, which is not supported yet",
                "give those of the VGG itself, torchvision's vgg16, whose layers count alike",
            )
        features = {key: value for key, value in weights.items() if key.startswith("features.")}
        count = sum(value.ndim == 4 for value in features.values())
        depth = {13: 16, 16: 19}.get(count)
        if depth is None:
            raise UserError(
                f"these weights have {count} convolutions, VGG-16 has 13 and VGG-19 has 16",
                "give the usual state dict of one of them, without batch normalisation",
            )
        layers: list[nn.Module] = []
        self.taken: set[int] = set()
        before = 3
        for width, convolutions in BLOCKS[depth]:
            self.taken.add(len(layers) + 1)  # after the first convolution's ReLU
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        own = {key.removeprefix("features."): value for key, value in features.items()}
        try:
            self.layers.load_state_dict(own)
        except RuntimeError as error:
            raise UserError(
                f"these weights are not those of VGG-{depth}",
                "give the usual state dict, without batch normalisation",
            ) from error
        self.layers.eval().requires_grad_(False)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.layers,)

    def __call__(self, images: Tensor) -> list[Tensor]:
        found, x = [], Preprocess((images.shape[-2], images.shape[-1]), *IMAGENET)(images)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.taken:
                found.append(x.flatten(2).to(images.dtype))
        return found


@dataclass(frozen=True, eq=False)
class Backbone(Features, Portable):
    """The hidden states of any `transformers` vision network.

    Args:
        network: The network.
        preprocess: How images are shown to it.
        layers: Which of its states, 0 being the input's embedding; None: all but that.
    """

    network: Any
    preprocess: Preprocess
    layers: tuple[int, ...] | None = None

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.network,)

    def __call__(self, images: Tensor) -> list[Tensor]:
        with asking("the network of features"):
            output = self.network(self.preprocess(images), output_hidden_states=True)
        states = output.hidden_states
        chosen = states[1:] if self.layers is None else [states[i] for i in self.layers]
        # (B, C, h, w) of convolutional networks, (B, n, C) of transformers
        places = [s.flatten(2) if s.ndim == 4 else s.transpose(1, 2) for s in chosen]
        return [each.to(images.dtype) for each in places]


class FeaturesSpec(PictureLossSpec):
    """A loss that compares what a network sees in the image and in a picture."""

    features: OwnNetwork = Field(
        None,
        description="A VGG's weights (a file), a transformers vision network, or a world's "
        "classifier; that of the model's world.",
    )


def load_features(name: str | Path | None = None, device: str | torch.device = "cpu") -> Features:
    """A network that sees content and style.

    Args:
        name: A VGG's state dict (a file), a `transformers` vision network by folder or hub name,
            or that of a world ("sprites"), whose classifier is meant; None: the shapes'.
        device: Where it works.

    Raises:
        UserError: There is none of that name.
    """
    path = expand(find_network(name, "classifier"))
    return load_vgg(path, device) if path.is_file() else load_backbone(name, device)


def load_vgg(path: str | Path, device: str | torch.device = "cpu") -> Vgg:
    """VGG-16 or VGG-19.

    Args:
        path: torchvision's state dict (`.pth`), or the same in safetensors.
        device: Where it works.

    Raises:
        UserError: There is no such file, or it is not a VGG.
    """
    vgg = Vgg(load_weights(path, "a VGG"))
    vgg.layers.to(device)
    return vgg


def load_backbone(name: str | Path | None = None, device: str | torch.device = "cpu") -> Backbone:
    """Any `transformers` vision network, frozen.

    Args:
        name: A folder, a name on the hub, or that of a world, whose classifier is meant; None: the
            shapes'.
        device: Where it works.

    Raises:
        UserError: There is none of that name.
    """
    found = find_network(name, "classifier")
    network, preprocess = load_pretrained("AutoModel", found, "vision network", unasked=("pooler",))
    return Backbone(getattr(network, "vision_model", network).to(device), preprocess)
