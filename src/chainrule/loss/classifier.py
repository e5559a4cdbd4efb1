"""The loss of a classifier: towards one of its classes (DOODL section 5.2, vocabulary expansion)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.loss.base import Loss

Objective = Callable[[Tensor, int], Tensor]
"""(logits (B, K), the index of the class) -> (B,)."""


def binary_cross_entropy(logits: Tensor, index: int) -> Tensor:
    """The paper's: each class is a question of its own, and all but `index` should be answered with no. (B,)"""
    target = torch.zeros_like(logits)
    target[:, index] = 1.0
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)


def cross_entropy(logits: Tensor, index: int) -> Tensor:
    """The negative log-probability of class `index` among all. (B,)"""
    return -logits.log_softmax(dim=1)[:, index]


@dataclass(frozen=True, eq=False)
class ImageClassifier:
    """`images (B, 3, H, W) in [0, 1] -> logits (B, K)`: resized and normalised as the network expects, differentiably.

    `size` is the (height, width) that the network takes; `mean` and `std` are those of its training; `dtype` is its
    weights'. Logits have the dtype of the images.
    """

    network: Callable[[Tensor], Tensor]
    labels: tuple[str, ...]
    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    dtype: torch.dtype = torch.float32

    def __call__(self, images: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != self.size:
            images = functional.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self.mean, self.std))
        return self.network(((images - mean) / std).to(self.dtype)).to(images.dtype)

    def index(self, label: str | int) -> int:
        """The class named `label` (or numbered); raises UserError, with the nearest names, if there is none."""
        if isinstance(label, int) or (label not in self.labels and label.isdigit()):
            if not 0 <= int(label) < len(self.labels):
                raise UserError(f"there is no class {label}: this classifier has {len(self.labels)}, numbered from 0")
            return int(label)
        if label not in self.labels:
            from difflib import get_close_matches

            names = get_close_matches(label, self.labels, n=12, cutoff=0.4) or self.labels[:12]
            raise UserError(f"the classifier has no class {label!r}; it has, for example, {', '.join(names)}")
        return self.labels.index(label)


@dataclass(frozen=True, eq=False)
class Classifier(Loss):
    """How far `classifier` is from seeing `target` (a label or its index), by `objective`."""

    classifier: ImageClassifier
    target: str | int
    objective: Objective = binary_cross_entropy

    def __post_init__(self) -> None:
        self.classifier.index(self.target)

    def __call__(self, images: Tensor) -> Tensor:
        return self.objective(self.classifier(images), self.classifier.index(self.target))


def load_classifier(name: str | Path | None = None, device: str | torch.device = "cpu") -> ImageClassifier:
    """The bundled classifier (None), or any `transformers` image classifier by folder or hub name, frozen.

    Raises UserError if there is none of that name.
    """
    from transformers import AutoModelForImageClassification
    from transformers.image_processing_base import ImageProcessingMixin

    source = str(Path(name or bundled.CLASSIFIER).expanduser())
    if str(name).startswith((".", "/", "~")) and not Path(source).is_dir():
        raise UserError(f"there is no classifier at {name}: name a folder or a model on the hub")
    try:
        network = AutoModelForImageClassification.from_pretrained(source, dtype=torch.float32)
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source!r} cannot be loaded as an image classifier ({reason}): check the name") from error
    network = network.to(device).eval().requires_grad_(False)
    labels = tuple(network.config.id2label[i] for i in range(network.config.num_labels))
    logits = _Logits(network, flipped=settings.get("do_flip_channel_order", False))
    return ImageClassifier(logits, labels, _size(settings), *_normalisation(settings))


def _normalisation(settings: dict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation that a preprocessor's settings ask for; 0 and 1 if they ask for none."""
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not settings.get("do_normalize", mean is not None):
        return (0.0,) * 3, (1.0,) * 3
    return tuple(mean or (0.5,) * 3), tuple(std or (0.5,) * 3)


def _size(settings: dict) -> tuple[int, int]:
    """The input size in a preprocessor's settings, which have had several forms over the years."""
    size = settings.get("crop_size") or settings.get("size") or 224
    if isinstance(size, int):
        return size, size
    edge = size.get("shortest_edge")
    return (edge, edge) if edge else (size["height"], size["width"])


class _Logits(nn.Module):
    """The logits of a transformers classifier, which may want blue first (`flipped`)."""

    def __init__(self, network: nn.Module, flipped: bool) -> None:
        super().__init__()
        self.network, self.flipped = network, flipped

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels.flip(1) if self.flipped else pixels).logits
        return logits
