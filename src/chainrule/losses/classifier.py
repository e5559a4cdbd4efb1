"""The loss of a classifier: towards one of its classes (DOODL section 5.2, vocabulary expansion)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.losses.base import Term
from chainrule.vision import Preprocess, load_pretrained

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
    """`images (B, 3, H, W) in [0, 1] -> logits (B, K)`, in the dtype of the images.

    `network` takes what `preprocess` makes of them; `labels` are the names of its K classes.
    """

    network: Callable[[Tensor], Tensor]
    labels: tuple[str, ...]
    preprocess: Preprocess

    def __call__(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images)).to(images.dtype)

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
class Classifier(Term):
    """How far `classifier` is from seeing `target` (a label or its index), by `objective`."""

    classifier: ImageClassifier
    target: str | int
    objective: Objective = binary_cross_entropy

    def __post_init__(self) -> None:
        self.classifier.index(self.target)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"classifier={self.target}"

    def __call__(self, images: Tensor) -> Tensor:
        return self.objective(self.classifier(images), self.classifier.index(self.target))


def load_classifier(name: str | Path | None = None, device: str | torch.device = "cpu") -> ImageClassifier:
    """The bundled classifier (None), or any `transformers` image classifier by folder or hub name, frozen.

    Raises UserError if there is none of that name.
    """
    network, preprocess = load_pretrained(
        "AutoModelForImageClassification", name or bundled.CLASSIFIER, "image classifier"
    )
    labels = tuple(network.config.id2label[i] for i in range(network.config.num_labels))
    return ImageClassifier(_Logits(network.to(device)), labels, preprocess)


@dataclass(frozen=True, eq=False)
class _Logits:
    """The logits of a transformers classifier."""

    network: Any

    def __call__(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels).logits
        return logits
