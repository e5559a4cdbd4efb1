"""Towards a class of a classifier (DOODL section 5.2, vocabulary expansion)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chainrule import bundled
from chainrule.brief import Brief
from chainrule.errors import UserError
from chainrule.losses.base import LossSpec, Term, find_networks
from chainrule.specs import NetworkName
from chainrule.vision import Portable, Preprocess, asking, load_pretrained

Objective = Callable[[Tensor, int], Tensor]
"""(logits (B, K), the index of the class) -> (B,)."""


def binary_cross_entropy(logits: Tensor, index: int) -> Tensor:
    """The paper's: each class is a question of its own, and all but one get a no.

    Args:
        logits: Those of B images and K classes, (B, K).
        index: The class that gets a yes, from 0 to K - 1.

    Returns:
        The mean over the questions, (B,).
    """
    target = torch.zeros_like(logits)
    target[:, index] = 1.0
    values = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return values.mean(dim=1)


def cross_entropy(logits: Tensor, index: int) -> Tensor:
    """The negative log-probability of a class among all.

    Args:
        logits: Those of B images and K classes, (B, K).
        index: The class, from 0 to K - 1.

    Returns:
        The loss of each image, (B,).
    """
    return -logits.log_softmax(dim=1)[:, index]


OBJECTIVES: dict[str, Objective] = {"bce": binary_cross_entropy, "ce": cross_entropy}


@dataclass(frozen=True, eq=False)
class ImageClassifier(Brief):
    """`images (B, 3, H, W) in [0, 1] -> logits (B, K)`, in the dtype of the images.

    Args:
        network: Takes what `preprocess` makes of the images.
        labels: The names of its K classes.
        preprocess: How images are shown to it.
    """

    network: Callable[[Tensor], Tensor]
    labels: tuple[str, ...]
    preprocess: Preprocess

    def __call__(self, images: Tensor) -> Tensor:
        logits = self.network(self.preprocess(images))
        expected = (len(images), len(self.labels))
        if not isinstance(logits, Tensor) or logits.shape != expected:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(
                f"the classifier gives {found} for {len(images)} images and {len(self.labels)} "
                "labels",
                f"make it a tensor of logits of shape {expected}",
                "classifier",
            )
        return logits.to(images.dtype)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks."""
        return find_networks(self.network)

    def index(self, label: str | int) -> int:
        """The class named `label` (or numbered), from 0 to K - 1.

        Raises:
            UserError: There is none; it names the nearest.
        """
        if isinstance(label, int) or (label not in self.labels and label.isdigit()):
            if not 0 <= int(label) < len(self.labels):
                raise UserError(
                    f"there is no class {label}",
                    f"this classifier has {len(self.labels)}, numbered from 0",
                )
            return int(label)
        if label not in self.labels:
            near = get_close_matches(label, self.labels, n=12, cutoff=0.4) or self.labels[:12]
            raise UserError(
                f"the classifier has no class {label!r}", f"it has, for example, {', '.join(near)}"
            )
        return self.labels.index(label)


@dataclass(frozen=True, eq=False)
class Classifier(Term):
    """How far a classifier is from seeing a class.

    Args:
        classifier: The classifier.
        target: The class: a label or its index.
        objective: How far that is, from the logits.
    """

    classifier: ImageClassifier
    target: str | int
    objective: Objective = binary_cross_entropy

    def __post_init__(self) -> None:
        self.classifier.index(self.target)

    @property
    def name(self) -> str:
        return f"classifier={self.target}"

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.classifier.networks

    def __call__(self, images: Tensor) -> Tensor:
        return self.objective(self.classifier(images), self.classifier.index(self.target))


class ClassifierSpec(LossSpec):
    """That a classifier sees a class in the image."""

    hint: ClassVar[str] = "classifier=CLASS"
    kind: Literal["classifier"] = "classifier"
    target: str = Field(description="The class that it should see: a label, or its number.")
    classifier: NetworkName | None = Field(
        None,
        description="Any transformers image classifier, a folder or owner/name; the bundled one.",
    )
    objective: Literal["bce", "ce"] = Field(
        "bce", description="bce: a question for each class (the paper's); ce: one among all."
    )

    def load(self, device: str | torch.device = "cpu") -> Classifier:
        classifier = load_classifier(self.classifier, device)
        return Classifier(classifier, self.target, OBJECTIVES[self.objective])


def load_classifier(
    name: str | Path | None = None, device: str | torch.device = "cpu"
) -> ImageClassifier:
    """Any `transformers` image classifier, frozen.

    Args:
        name: A folder, or a name on the hub; None: the bundled classifier.
        device: Where it works.

    Raises:
        UserError: There is none of that name.
    """
    network, preprocess = load_pretrained(
        "AutoModelForImageClassification", name or bundled.CLASSIFIER, "image classifier"
    )
    names = network.config.id2label
    labels = tuple(str(names.get(i, i)) for i in range(network.config.num_labels))
    return ImageClassifier(_Logits(network.to(device)), labels, preprocess)


@dataclass(frozen=True, eq=False)
class _Logits(Brief, Portable):
    """The logits of a transformers classifier."""

    network: Any

    def __call__(self, pixels: Tensor) -> Tensor:
        with asking("the classifier"):
            logits: Tensor = self.network(pixels).logits
        return logits

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.network,)
