"""How an independent judge scores images: in the bundled worlds, where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from chainrule.bundled import SCENES, find_world
from chainrule.losses.aesthetic import AestheticSpec
from chainrule.losses.classifier import ClassifierSpec, load_classifier
from chainrule.runs.spec import RunSpec


class Score(NamedTuple):
    """A judge's score.

    Args:
        name: What it is called in reports.
        ask: Images (B, 3, H, W) -> a number each.
        write: One number as a caption.
    """

    name: str
    ask: Callable[[Tensor], list[float]]
    write: Callable[[float], str]


def find_score(spec: RunSpec) -> Score | None:
    """The judge of what a run's first loss wants; None if nobody independent can tell."""
    first, found = next(iter(spec.losses), None), find_world(spec.checkpoint.model)
    if found is None:
        return None
    world = found.name
    if isinstance(first, AestheticSpec) and first.rater in (None, world):
        return _rate(world)
    if isinstance(first, ClassifierSpec) and first.classifier in (None, world):
        return _judge(world, first.target)
    return None


def _rate(world: str) -> Score:
    if world == SCENES.name:
        from chainrule.scenes.rating import rate
    else:
        from chainrule.sprites.rating import rate

    return Score(
        "judge", lambda images: [rate(image) for image in images], "judge: {:.1f} of 10".format
    )


def _judge(world: str, target: str) -> Score:
    from chainrule.scenes.judge import probabilities

    judge = load_classifier(world, role="judge")
    column = judge.index(target)

    def ask(images: Tensor) -> list[float]:
        found: list[float] = probabilities(judge, images.cpu())[:, column].tolist()
        return found

    return Score("judge", ask, lambda p: f"judge: {p:.0%} {target}")
