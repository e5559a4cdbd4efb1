"""Who sees what is random, balanced, and the same whenever it is asked again."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.errors import UserError
from chainrule.study import Study, assign
from chainrule.study.protocols import EditSuccess, Pairwise
from studies import imagine, owners

METHODS = ("a", "b", "c", "d")


@st.composite
def studies(draw: st.DrawFn) -> Study:
    protocol = draw(st.sampled_from([Pairwise(), EditSuccess()]))
    methods = METHODS[: draw(st.integers(2, 4))]
    study = imagine(
        protocol,
        draw(st.integers(1, 5)),
        methods,
        checks=draw(st.integers(0, 3)),
        seed=draw(st.integers(0, 2**31 - 1)),
    )
    return study.model_copy(update={"per_rater": draw(st.integers(1, len(study.questions)))})


@settings(max_examples=60, deadline=None)
@given(studies(), st.integers(1, 7))
def test_it_is_balanced_and_replayable(study: Study, raters: int) -> None:
    views: Counter[str] = Counter()
    sides: dict[str, Counter[tuple[str, ...]]] = {}
    for rater in range(1, raters + 1):
        shown = assign(study, rater)
        assert shown == assign(Study.model_validate_json(study.model_dump_json()), rater)
        names = [each.question.name for each in shown]
        assert len(set(names)) == len(names)
        asked = [each for each in shown if not each.question.check]
        assert len(asked) == study.per_rater
        assert {n for n in names if n not in {e.question.name for e in asked}} == {
            each.name for each in study.checks
        }
        of_pairs = Counter(tuple(sorted(owners(study, each))) for each in asked)
        groups = len(study.methods)
        if study.protocol.compared == 2:
            groups = len(list(combinations(study.methods, 2)))
        counts = [*of_pairs.values(), *[0] * (groups - len(of_pairs))]
        assert max(counts) - min(counts) <= 1
        for each in asked:
            assert sorted(each.pictures) == sorted(each.question.pictures)
            views[each.question.name] += 1
            sides.setdefault(each.question.name, Counter())[each.pictures] += 1
    counts = [views[each.name] for each in study.questions]
    assert max(counts) - min(counts) <= 1
    if study.protocol.compared == 2:
        for name, seen in sides.items():
            assert 2 * max(seen.values()) - views[name] <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(2, 9), st.integers(1, 6))
def test_a_rater_of_everything_sees_each_method_on_each_side_as_often(
    seed: int, clusters: int, rater: int
) -> None:
    study = imagine(clusters=clusters, methods=METHODS[:3], seed=seed)
    left: Counter[tuple[str, ...]] = Counter(owners(study, each) for each in assign(study, rater))
    for pair in combinations(METHODS[:3], 2):
        assert abs(left[pair] - left[pair[::-1]]) <= 1


def test_raters_and_studies_differ() -> None:
    one = imagine(clusters=20)
    orders = [[each.question.name for each in assign(one, rater)] for rater in (1, 2, 3)]
    assert len({tuple(order) for order in orders}) == 3
    other = one.model_copy(update={"seed": 5})
    assert [each.question.name for each in assign(other, 1)] != orders[0]
    turned = [
        {each.question.name: each.pictures for each in assign(one, rater)} for rater in (1, 3)
    ]
    assert turned[0] != turned[1]
    # the first and the second rater see each pair from both sides
    second = {each.question.name: each.pictures for each in assign(one, 2)}
    assert all(second[name] == pictures[::-1] for name, pictures in turned[0].items())


def test_checks_are_spread() -> None:
    study = imagine(clusters=30, checks=3)
    places = set()
    for rater in range(1, 9):
        shown = assign(study, rater)
        found = [i for i, each in enumerate(shown) if each.question.check]
        assert [min(2, 3 * i // len(shown)) for i in found] == [0, 1, 2]
        places.add(tuple(found))
    assert len(places) > 4


def test_raters_are_numbered_from_one() -> None:
    with pytest.raises(UserError, match="there is no rater 0: they are numbered from 1"):
        assign(imagine(), 0)
