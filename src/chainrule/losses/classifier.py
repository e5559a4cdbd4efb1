"""Towards a class of a classifier (DOODL section 5.2, vocabulary expansion)."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chainrule.brief import Brief
from chainrule.bundled import find_network, is_world
from chainrule.diffusion.gradient.base import is_transformed
from chainrule.errors import UserError, tidy
from chainrule.losses.base import LossSpec, Term, find_networks
from chainrule.specs import OwnNetwork
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
        name: What it is called in messages.
    """

    network: Callable[[Tensor], Tensor]
    labels: tuple[str, ...]
    preprocess: Preprocess
    name: str = "classifier"

    def __call__(self, images: Tensor) -> Tensor:
        logits = self.network(self.preprocess(images))
        expected = (len(images), len(self.labels))
        if not isinstance(logits, Tensor) or logits.shape != expected:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(
                f"the {self.name} gives {found} for {len(images)} images and {len(self.labels)} "
                "labels",
                f"make it a tensor of logits of shape {expected}",
                self._role,
            )
        self._check_finite(logits, images)
        return logits.to(images.dtype)

    @property
    def _role(self) -> str:
        return "judge" if self.name.split()[:1] == ["judge"] else "classifier"

    def _check_finite(self, logits: Tensor, images: Tensor) -> None:
        """Raise UserError for logits that are not finite, of images that are."""
        if is_transformed() or bool(torch.isfinite(logits).all()):
            return
        whole = torch.isfinite(images).flatten(1).all(dim=1)
        wrong = logits.detach()[whole][~torch.isfinite(logits.detach()[whole])]
        if len(wrong):  # else it is the images' fault, which is said elsewhere
            raise UserError(
                f"the {self.name} gives logits that are not finite ({wrong[0].item():g})",
                "name a network whose weights are whole",
                self._role,
            )

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks."""
        return find_networks(self.network)

    def index(self, label: str | int) -> int:
        """The class named `label` (or numbered), from 0 to K - 1; see `match_labels`.

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
        if label in self.labels:
            return self.labels.index(label)
        (found,) = match_labels([label], self.labels)
        if found < 0:
            near = get_close_matches(label, self.labels, n=12, cutoff=0.4) or self.labels[:12]
            raise UserError(
                f"the classifier has no class {label!r}", f"it has, for example, {', '.join(near)}"
            )
        return found


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
    classifier: OwnNetwork = Field(
        None,
        description="Any transformers image classifier: a folder, owner/name or a world's; "
        "that of the model's world.",
    )
    objective: Literal["bce", "ce"] = Field(
        "bce", description="bce: a question for each class (the paper's); ce: one among all."
    )

    def load(self, device: str | torch.device = "cpu") -> Classifier:
        exclusive = self.objective == "ce"
        classifier = load_classifier(self.classifier, device, exclusive=exclusive)
        return Classifier(classifier, self.target, OBJECTIVES[self.objective])


def load_classifier(
    name: str | Path | None = None,
    device: str | torch.device = "cpu",
    *,
    role: Literal["classifier", "judge"] = "classifier",
    exclusive: bool = True,
) -> ImageClassifier:
    """Any `transformers` image classifier, frozen.

    Its labels are made one line of printable letters each.

    Args:
        name: A folder, a name on the hub, or that of a world ("sprites"); None: the shapes'.
        device: Where it works.
        role: Which of a world's two is meant, and what it is called in messages.
        exclusive: Whether one class is to be told from the others: a warning is given if the
            network was trained to answer each by itself.

    Raises:
        UserError: There is none of that name, or a class of it has no name.
    """
    found = find_network(name, role)
    network, preprocess = load_pretrained(
        "AutoModelForImageClassification", found, "image classifier"
    )
    called = f"{role} that is bundled" if is_world(name) else f"{role} {tidy(Path(found).name)}"
    config = network.config
    labels = _read_labels(config.id2label, called)
    _compare_maps(config.label2id or {}, config.id2label, called)
    if exclusive and config.problem_type == "multi_label_classification":
        warnings.warn(
            f"the {called} was trained to say yes or no to each class by itself "
            "(multi_label_classification): here, its largest logit is taken for what it sees",
            stacklevel=2,
        )
    return ImageClassifier(_Logits(network.to(device)), labels, preprocess, called)


def _read_labels(names: Mapping[int, Any], called: str) -> tuple[str, ...]:
    """The classes' names, from 0 to K - 1. Raises UserError if one has none."""
    numbers = sorted(names)
    if numbers != list(range(len(names))):
        raise UserError(
            f"the id2label of the {called} numbers its {len(names)} classes {_name_some(numbers)}",
            "number them from 0 to K - 1 in its config.json",
            called.split()[0],
        )
    labels = tuple(tidy(str(names[i])).strip() for i in numbers)
    if "" in labels:
        raise UserError(
            f"class {labels.index('')} of the {called} has no name",
            "write one in the id2label of its config.json",
            called.split()[0],
        )
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        warnings.warn(
            f"several classes of the {called} have one name ({_name_some(twice)}): by that name, "
            "the first is meant",
            stacklevel=3,
        )
    return labels


def _compare_maps(back: Mapping[Any, Any], names: Mapping[int, Any], called: str) -> None:
    """Warn of a label2id that numbers classes otherwise than id2label, which is followed."""
    for label, number in back.items():
        placeholder = str(label).startswith("LABEL_")  # which transformers makes up
        if not placeholder and str(names.get(_as_number(number))) != str(label):
            warnings.warn(
                f"the label2id of the {called} contradicts its id2label (of "
                f"{tidy(str(label), 60)!r}): id2label is followed",
                stacklevel=3,
            )
            return


def match_labels(labels: Sequence[str], known: Sequence[str]) -> tuple[int, ...]:
    """For each label, the number of the known one of the same name; -1: of none, or of several.

    A label is one name, or several with commas between them, as ImageNet's are; capitals do not
    count. A label that is the same as a whole is preferred to one that shares a name.

    >>> match_labels(["Circle", "moon"], ["star", "circle, round thing"])
    (1, -1)

    Args:
        labels: Those that are looked for.
        known: Those among which they are looked for.
    """
    if tuple(labels) == tuple(known):
        return tuple(range(len(known)))
    whole: dict[str, set[int]] = {}
    parts: dict[str, set[int]] = {}
    for i, label in enumerate(known):
        whole.setdefault(label.strip().casefold(), set()).add(i)
        for name in split_label(label):
            parts.setdefault(name, set()).add(i)
    found = []
    for label in labels:
        shared = (parts.get(name, set()) for name in split_label(label))
        same = whole.get(label.strip().casefold()) or set().union(*shared)
        found.append(min(same) if len(same) == 1 else -1)
    return tuple(found)


def split_label(label: str) -> list[str]:
    """The names in a label, without capitals.

    Args:
        label: One name, or several with commas between them.
    """
    return [name for part in label.split(",") if (name := part.strip().casefold())]


def _as_number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return -1


def _name_some(values: Sequence[Any], most: int = 5) -> str:
    """The first few of some values."""
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


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
