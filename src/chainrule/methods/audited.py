"""What an audit works on: a classifier, its judge, and where the search is."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from chainrule.brief import Brief
from chainrule.diffusion.denoiser import Denoiser
from chainrule.errors import UserError, tidy
from chainrule.losses.classifier import ImageClassifier, match_labels, split_label
from chainrule.memory import Plan
from chainrule.methods.base import PLAIN, State, as_tuple
from chainrule.models.base import Model
from chainrule.noise import as_seeds


@dataclass(frozen=True, eq=False)
class AuditTask(Brief):
    """A classifier to be audited on what a model draws, and a judge of what is there.

    The two must call a class by the same name to mean the same: by one of several that a label
    gives with commas between them, in capitals or not. Images are numbered: prompts first, seeds
    within.

    Args:
        model: What draws.
        prompts: What is drawn.
        seeds: With which noise.
        classifier: What is audited.
        judge: An independent classifier.
        plan: What is kept and rebuilt.
    """

    model: Model
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    classifier: ImageClassifier
    judge: ImageClassifier
    plan: Plan = PLAIN
    loss: None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", as_seeds(self.seeds))
        object.__setattr__(self, "prompts", as_tuple(self.prompts, str, "prompts"))
        if self.judge.name == "classifier":  # which it is called by default
            object.__setattr__(self, "judge", replace(self.judge, name="judge"))
        for role, network in (("classifier", self.classifier), ("judge", self.judge)):
            if len(network.labels) < 2 or not all(label.strip() for label in network.labels):
                raise UserError(
                    f"the {network.name} has fewer than two classes, or one without a name",
                    "name one that tells several classes apart",
                    role,
                )
        if max(self.matches) < 0:
            mine, others = (_name_some(each.labels) for each in (self.classifier, self.judge))
            raise UserError(
                f"the classifier and the judge share no class (the classifier has {mine}; the "
                f"judge has {others})",
                "choose a judge that knows the classifier's labels",
                "judge",
            )

    @property
    def judges(self) -> tuple[nn.Module, ...]:
        """The networks that judge the images."""
        return (*self.classifier.networks, *self.judge.networks)

    @cached_property
    def matches(self) -> tuple[int, ...]:
        """For each of the judge's classes, the classifier's of that name; -1: none, or several."""
        return match_labels(self.judge.labels, self.classifier.labels)

    @cached_property
    def shared(self) -> float:
        """The share of the classifier's weights, from 0 to 1, that the judge has as well."""
        return shared_weights(self.classifier.networks, self.judge.networks)

    @cached_property
    def named(self) -> tuple[tuple[int, ...], ...]:
        """For each prompt, the classifier's classes whose names are among its words."""
        patterns = [_find_words(label) for label in self.classifier.labels]
        return tuple(
            tuple(i for i, pattern in enumerate(patterns) if pattern.search(prompt))
            for prompt in self.prompts
        )

    def under(self, plan: Plan) -> AuditTask:
        """This task with another plan."""
        return replace(self, plan=plan)

    def denoiser(self, rows: Tensor, guidance_scale: float | None) -> Denoiser:
        """The model told the prompts of the images numbered `rows`.

        Args:
            rows: (n,), the images' numbers.
            guidance_scale: Of classifier-free guidance; None: the model's own.
        """
        prompts = [self.prompts[i // len(self.seeds)] for i in rows.tolist()]
        return self.model.denoiser(prompts, guidance_scale=guidance_scale)

    def ask_judge(self, images: Tensor) -> Tensor:
        """What the judge sees (B,), as the classifier's number of it; -1: none of that name."""
        return self.translate(self.judge(images).argmax(dim=1))

    def translate(self, classes: Tensor) -> Tensor:
        """The judge's classes (B,) as the classifier's numbers of them; -1: none of that name."""
        return torch.tensor(self.matches, device=classes.device)[classes]


@dataclass(frozen=True, eq=False)
class AuditState(State):
    """All of an audit at one moment, for the N images of all prompts and seeds.

    Args:
        x_T: (N, C, h, w), the noise to try next.
        memory: (2, *x_T.shape), the optimiser's.
        start: As `x_T`, of the images before the audit.
        label: (N,), what classifier and judge saw there; -1: not the same, and so not audited.
        second: (N,), the class that came second.
        seen: (N,), what the classifier saw last.
        before: (N, 4), what was read before the audit: the classifier's class and its probability,
            the judge's class (by its own number) and its probability.
        after: As `before`, what was read last.
        level: (N,), the number of the first radius that misled it, or of radii.
        done: (), how many iterations are done.
    """

    x_T: Tensor
    memory: Tensor
    start: Tensor
    label: Tensor
    second: Tensor
    seen: Tensor
    before: Tensor
    after: Tensor
    level: Tensor
    done: Tensor
    layout: ClassVar[Mapping[str, str]] = {
        "x_T": "N C h w",
        "memory": "2 N C h w",
        "start": "N C h w",
        "label": "N int",
        "second": "N int",
        "seen": "N int",
        "before": "N 4",
        "after": "N 4",
        "level": "N int",
        "done": " int",
    }

    @property
    def iteration(self) -> int:
        return int(self.done)

    @property
    def numbers(self) -> dict[str, float]:
        audited = self.label >= 0
        moved = (self.level[audited] < self.level.max()) if audited.any() else audited
        return {"audited": float(audited.sum()), "misled": float(moved.sum())}


NEARLY = 0.9
"""The share of equal weights from which the judge is suspected of being the classifier."""


def require_independent(task: AuditTask) -> None:
    """Refuse a judge that is the classifier, by its weights; warn of one that is nearly it.

    Args:
        task: Whose judge.

    Raises:
        UserError: It is.
    """
    own, other = task.classifier, task.judge
    share = task.shared
    if own.network is other.network or share == 1.0:
        raise UserError(
            "the judge is the classifier itself: their weights are the same",
            "name another, or nothing is found out",
            "judge",
        )
    if share >= NEARLY:
        warnings.warn(
            warn_of_shared(share),
            stacklevel=2,
        )


def warn_of_shared(share: float) -> str:
    """A sentence on a judge that is nearly the classifier.

    Args:
        share: The share of equal weights.
    """
    return (
        f"{share:.1%} of the classifier's weights are the judge's as well, so that what "
        "misleads one misleads the other: an independent judge says more"
    )


def _find_words(label: str) -> re.Pattern[str]:
    """What finds one of a label's names in a prompt, as a word of its own, or several of it."""
    names = "|".join(map(re.escape, split_label(label)))
    return re.compile(rf"(?<!\w)(?:{names})(?:e?s)?(?!\w)", re.IGNORECASE)


def _name_some(labels: Sequence[str], most: int = 5) -> str:
    return ", ".join(map(tidy, labels[:most])) + (", ..." if len(labels) > most else "")


def shared_weights(networks: Sequence[nn.Module], others: Sequence[nn.Module]) -> float:
    """The share, from 0 to 1, of the weights of some networks that others have as well.

    Tensors are compared, whatever they are called, and in the coarser of their precisions: one that
    was saved in half is the same.

    Args:
        networks: Whose weights are counted.
        others: Where they are looked for.
    """
    candidates: dict[tuple[int, ...], list[Tensor]] = {}
    for value in _weights(others):
        candidates.setdefault(tuple(value.shape), []).append(value)
    mine = _weights(networks)
    equal = [any(_equal(a, b) for b in candidates.get(tuple(a.shape), ())) for a in mine]
    sizes = [value.numel() for value in mine]
    found = sum(size for size, same in zip(sizes, equal, strict=True) if same)
    return found / sum(sizes) if sum(sizes) else 0.0


def _weights(networks: Sequence[nn.Module]) -> list[Tensor]:
    return [weight.detach() for network in networks for weight in network.parameters()]


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are the same, but for having been rounded to half precision."""
    a, b = one.float(), other.to(one.device).float()
    if not torch.allclose(a.flatten()[:8], b.flatten()[:8], rtol=2**-6, atol=1e-6):
        return False  # most are told apart so, without a look at the rest
    return any(torch.equal(a.to(kind).float(), b.to(kind).float()) for kind in PRECISIONS)


PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)
