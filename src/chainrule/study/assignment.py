"""Who sees what: replayable from the study's seed and a rater's number alone.

All questions stand in one random order in which the pairs of methods take turns. Each rater takes
the next `per_rater` of them, and after the last comes the first, so that no question has been shown
to two raters more than another. Of two raters who see a pair one after the other the second sees it
with its sides exchanged; which of them begins is random, and of each pair of methods half begin
with the one and half with the other. A rater's own order is random, with the attention checks
spread over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch

from chainrule.errors import UserError
from chainrule.noise import Stream
from chainrule.study.spec import Question, Study


@dataclass(frozen=True)
class Shown:
    """A question as one rater sees it.

    Args:
        question: Itself.
        pictures: The names of the pictures that are compared, from left to right.
    """

    question: Question
    pictures: tuple[str, ...]


def assign(study: Study, rater: int) -> tuple[Shown, ...]:
    """The questions of a rater, in their order.

    Args:
        study: The study.
        rater: Their number, from 1; there may be more than were foreseen.

    Returns:
        As many as `per_rater`, and the checks.

    Raises:
        UserError: There is no such rater.
    """
    if rater < 1:
        raise UserError(f"there is no rater {rater}", "they are numbered from 1", "rater")
    order, count = _order_questions(study), len(study.questions)
    starts = {}
    places = range((rater - 1) * study.per_rater, rater * study.per_rater)
    shown = []
    for place in places:
        visit, question = place // count, order[place % count]
        if visit // 2 not in starts:
            starts[visit // 2] = _draw_sides(study, visit // 2)
        turned = starts[visit // 2][question] ^ bool(visit % 2)
        shown.append(_show(study.questions[question], turned=turned))
    shown = [shown[k] for k in permute(study.seed, "study/order", rater, len(shown))]
    return tuple(_insert_checks(study, rater, shown))


def permute(seed: int, name: str, k: int, count: int) -> list[int]:
    """The numbers from 0 to `count` - 1 in a random order.

    Args:
        seed: The study's.
        name: Of the stream.
        k: Which draw of it.
        count: How many.
    """
    (source,) = Stream((seed,), name).generators(k)
    found: list[int] = torch.randperm(count, generator=source).tolist()
    return found


def _group_questions(study: Study) -> list[list[int]]:
    """The questions of each pair of methods, or of each method."""
    methods = {picture.name: picture.method for picture in study.pictures}
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for index, question in enumerate(study.questions):
        groups.setdefault(tuple(methods[name] for name in question.pictures), []).append(index)
    return list(groups.values())


def _order_questions(study: Study) -> list[int]:
    """A random order in which the pairs of methods take turns."""
    groups = _group_questions(study)
    mixed = []
    for k, group in enumerate(groups):
        mixed.append([group[i] for i in permute(study.seed, "study/questions", k, len(group))])
    turns = zip_longest(*(mixed[k] for k in permute(study.seed, "study/pairs", 0, len(mixed))))
    return [index for turn in turns for index in turn if index is not None]


def _draw_sides(study: Study, k: int) -> dict[int, bool]:
    """Whether each question has its sides exchanged: half of each pair of methods."""
    groups = _group_questions(study)
    turned: dict[int, bool] = {}
    for number, group in enumerate(groups):
        # of an odd number, which half is the larger changes with k
        mixed = permute(study.seed, "study/sides", k * len(groups) + number, len(group))
        turned |= {group[i]: (place + k) % 2 == 1 for place, i in enumerate(mixed)}
    return turned


def _show(question: Question, *, turned: bool) -> Shown:
    names = question.pictures
    return Shown(question, names[::-1] if turned else names)


def _insert_checks(study: Study, rater: int, shown: Sequence[Shown]) -> list[Shown]:
    """The questions with a check somewhere in each of as many parts as there are checks."""
    checks, found = study.checks, list(shown)
    order = permute(study.seed, "study/check-order", rater, len(checks))
    (source,) = Stream((study.seed,), "study/check-places").generators(rater)
    shares = torch.rand(len(checks), 2, generator=source).tolist()
    # from the last to the first, so that the places of the others stay
    for part in reversed(range(len(checks))):
        share, side = shares[part]
        place = int((part + share) / len(checks) * (len(shown) + 1))
        found.insert(place, _show(checks[order[part]], turned=side < 0.5))
    return found
