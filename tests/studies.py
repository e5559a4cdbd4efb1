"""Runs with pictures of random numbers, studies of them, and raters who answer as they are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from chainrule.images import to_pil
from chainrule.runs import Folder, parse_spec
from chainrule.runs.origin import describe_origin, save_picture
from chainrule.study import Answer, Asked, Shown, Study, StudyFolder, assign, create_study
from chainrule.study.protocols import ASKED, Pairwise, Protocol
from chainrule.study.spec import Cluster, Picture, Question

PROMPT = "a red cat"
METHODS = [{"kind": "plain", "steps": 2}, {"kind": "one-step"}, {"kind": "doodl"}]
LABELS = ("plain", "one-step", "doodl")
Rater = Callable[[Shown, tuple[str, ...]], str]
"""From a question, and whose its pictures are from left to right, to an answer."""


def draw(path: Path, seed: int, size: int = 8) -> Path:
    pixels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(pixels).save(path)
    return path


def write_run(path: Path, seeds: Sequence[int] = range(4), size: int = 8, **changes: Any) -> Path:
    """A run's folder whose pictures carry what made them, as real ones do."""
    inputs = {"prompt": PROMPT, "seed": tuple(seeds), **changes.pop("inputs", {})}
    asked = {"inputs": inputs, "losses": ["brightness=0.9"], "methods": METHODS, **changes}
    folder = Folder.create(path, parse_spec(asked))
    (path / "images").mkdir()
    for row, (label, _) in enumerate(folder.spec.labelled()):
        for seed in seeds:
            pixels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(100 * row + seed))  # fmt: skip
            origin = describe_origin(folder.written, {}, label, seed)
            save_picture(to_pil(pixels), folder.image_path(label, seed), origin)
    return path


def make_study(path: Path, seeds: Sequence[int] = range(4), **asked: Any) -> StudyFolder:
    run = write_run(path / "run", seeds)
    return create_study(path / "study", [run], Asked(**{"seed": 1, **asked}))


def imagine(
    protocol: Protocol | None = None, clusters: int = 6, methods: Sequence[str] = ("a", "b"), **changes: Any
) -> Study:  # fmt: skip
    """A study without files: each pair of methods in each cluster, or each method."""
    protocol, names = protocol or Pairwise(), iter(f"{i:016x}" for i in range(10**6))
    found = {
        (k, method): Picture(name=next(names), digest="", method=method, run=0)
        for k in range(clusters) for method in methods
    }  # fmt: skip
    pairs = [(m,) for m in methods] if protocol.compared == 1 else [
        (a, b) for i, a in enumerate(methods) for b in methods[i + 1 :]
    ]  # fmt: skip
    questions = tuple(
        Question(name=next(names), cluster=k, pictures=tuple(found[k, m].name for m in pair))
        for k in range(clusters) for pair in pairs
    )  # fmt: skip
    checks = tuple(
        questions[0].model_copy(update={"name": next(names), "check": ASKED, "right": (protocol.askable[0].value,)})
        for _ in range(changes.pop("checks", 0))
    )  # fmt: skip
    values: dict[str, Any] = {
        "protocol": protocol, "methods": tuple(methods), "seed": 0, "raters": 3, "per_rater": len(questions),
        "slips": 0, "runs": (), "pictures": tuple(found.values()), "questions": questions, "checks": checks,
        "clusters": tuple(Cluster(prompt=PROMPT, seed=k) for k in range(clusters)),
    }  # fmt: skip
    return Study(**{**values, **changes})


def owners(study: Study, shown: Shown) -> tuple[str, ...]:
    """Whose the pictures of a question are, from left to right."""
    known = {each.name: each.method or "noise" for each in study.pictures}
    return tuple(known[name] for name in shown.pictures)


def answer(study: Study, rater: int, decide: Rater, *, attentive: bool = True) -> list[Answer]:
    """All answers of a rater, who is right in checks, or wrong in all of them."""
    found = []
    for shown in assign(study, rater):
        choice = decide(shown, owners(study, shown))
        if shown.question.check:
            first = shown.pictures.index(shown.question.pictures[0])
            choice = next(
                each.value
                for each in study.protocol.choices
                if (study.protocol.outcome(each.value, first) in shown.question.right) == attentive
            )
        found.append(Answer(rater, shown.question.name, choice, shown.pictures, "now"))
    return found


def fill(folder: StudyFolder, rater: int, decide: Rater, *, attentive: bool = True) -> None:
    for each in answer(folder.study, rater, decide, attentive=attentive):
        folder.answers.add(each.rater, each.question, each.choice, each.shown)


def prefer(*order: str) -> Rater:
    """A rater of pairs who likes the method that comes first."""

    def decide(shown: Shown, labels: tuple[str, ...]) -> str:
        places = [order.index(label) if label in order else len(order) for label in labels]
        return "first" if places[0] < places[1] else "second"

    return decide
