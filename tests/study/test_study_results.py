"""The numbers of a study are those of raters whose minds are known."""

from __future__ import annotations

import csv
import json
import math
import random
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chainrule.errors import UserError
from chainrule.metrics import Interval
from chainrule.study import Answer, Study, assign, compute_results
from chainrule.study.protocols import EditSuccess, Free, Pairwise, Protocol, SameThing
from chainrule.study.report import (
    describe_agreement,
    list_remarks,
    make_report,
    write_answers,
    write_report,
)
from chainrule.study.results import LEVELS, Verdict, estimate_rate, need
from studies import Rater, answer, fill, imagine, make_study, prefer


def likes(share: float, seed: int) -> Rater:
    """A rater of pairs who finds a's picture good with this chance, and b's with half of it."""
    source = random.Random(seed)

    def decide(shown: object, labels: tuple[str, ...]) -> str:
        good = [source.random() < share / (1 if label == "a" else 2) for label in labels]
        return {(True, True): "both", (False, False): "neither", (True, False): "first"}.get(
            (good[0], good[1]), "second"
        )

    return decide


def test_raters_of_known_preference_have_rates_that_come_out_right() -> None:
    """a is good with a chance of 0.8, b of 0.4, for each of three raters alike."""
    study, held = imagine(clusters=100), []
    truth = {}
    for label, p in (("a", 0.8), ("b", 0.4)):
        two = p**3 + 3 * p**2 * (1 - p)
        truth[label] = {"answers": p, "majority": two, "all but one": two, "all": p**3}
    for trial in range(5):
        raters = [(rater, likes(0.8, 3 * trial + rater)) for rater in (1, 2, 3)]
        found = compute_results(study, [each for one in raters for each in answer(study, *one)])
        assert (found.counted, found.left_out) == ((1, 2, 3), {})
        for label, wanted in truth.items():
            levels = found.rates[label]["better or both"]
            assert [levels[level].units for level in LEVELS] == [300, 100, 100, 100]
            for level, true in wanted.items():
                value, low, high = levels[level].interval
                assert abs(value - true) < 0.15
                assert low < value < high < low + 0.25
                held.append(low <= true <= high)
        better = found.rates["a"]["better"]["answers"].interval
        held.append(better.low <= 0.8 * 0.6 <= better.high)
        (difference,) = (
            each.interval
            for each in found.differences
            if (each.bar, each.level) == ("better or both", "answers")
        )
        held.append(difference.low <= 0.4 <= difference.high)
        assert difference.low > 0.2
        (pair,) = found.comparisons
        assert sum(pair.answers.values()) == 300
        assert pair.wins + pair.draws + pair.losses == 100
        assert pair.wins > 3 * pair.losses
        assert abs(found.agreement.alpha) < 0.15  # what each likes is independent of the others
    assert len(held) == 50
    assert sum(held) >= 44  # of 95 % intervals, which are not independent


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    source, held = random.Random(0), 0
    for _ in range(40):
        verdicts = []
        for cluster in range(50):
            p = source.choice([0.2, 0.9])  # some prompts are easy: answers depend on each other
            verdicts += [
                Verdict(f"{cluster}", cluster, ("a",), "a", rater, "yes" if source.random() < p else "no")
                for rater in range(3)
            ]  # fmt: skip
        _, low, high = estimate_rate(verdicts, {"yes"}, "answers").interval
        held += low <= 0.55 <= high
    assert held >= 35


def test_intervals_by_clusters_are_wider_where_answers_in_them_agree() -> None:
    def judge(agree: bool, seed: int) -> Interval:
        source = random.Random(seed)
        said = []
        for cluster in range(30):
            common = source.random() < 0.5
            for rater in range(6):
                yes = common if agree else source.random() < 0.5
                said.append(
                    Verdict(f"{cluster}", cluster, ("a",), "a", rater, "yes" if yes else "no")
                )
        return estimate_rate(said, {"yes"}, "answers").interval

    dependent, independent = judge(True, 1), judge(False, 1)
    widths = [each.high - each.low for each in (dependent, independent)]
    assert widths[0] > 1.8 * widths[1]  # by the root of 6, but for chance


def test_a_preference_without_a_doubt() -> None:
    study = imagine(clusters=20, methods=("a", "b", "c"), checks=2)
    answers = [each for r in (1, 2, 3) for each in answer(study, r, prefer("c", "a", "b"))]
    found = compute_results(study, answers)
    rates = {
        label: bars["better or both"]["majority"].interval for label, bars in found.rates.items()
    }
    assert [rates[label].value for label in "abc"] == [0.5, 0.0, 1.0]
    assert rates["c"].low == pytest.approx(0.839, abs=1e-3)  # Wilson's, of 20 clusters
    assert rates["b"].high == pytest.approx(0.161, abs=1e-3)
    assert found.agreement.alpha == pytest.approx(1)
    by_pair = {each.methods: (each.wins, each.draws, each.losses) for each in found.comparisons}
    assert by_pair == {("a", "b"): (20, 0, 0), ("a", "c"): (0, 0, 20), ("b", "c"): (0, 0, 20)}
    # of clusters that are all alike there is nothing to draw
    differences = {each.methods: each.interval for each in found.differences if each.level == "all"}
    assert differences["a", "b"].value == 1.0
    assert math.isnan(differences["a", "b"].low)


def test_who_fails_attention_checks_is_left_out_with_a_word() -> None:
    study = imagine(clusters=12, checks=2)
    good = [each for r in (1, 2) for each in answer(study, r, prefer("a"))]
    bad = answer(study, 3, prefer("b"), attentive=False)
    found = compute_results(study, [*good, *bad])
    assert (found.counted, found.left_out) == ((1, 2), {3: 2})
    assert found.rates["b"]["better or both"]["answers"].interval.value == 0
    assert found.rates["a"]["better or both"]["answers"].units == 24
    said = "Rater 3 is left out, having failed 2 attention checks of 2."
    assert said in list_remarks(found)
    assert said in make_report(found)
    assert found.as_json()["raters"]["left_out"] == {"3": 2}
    forgiving = compute_results(study.model_copy(update={"slips": 2}), [*good, *bad])
    assert (forgiving.counted, forgiving.left_out) == ((1, 2, 3), {})
    assert forgiving.rates["a"]["better or both"]["answers"].interval.value == pytest.approx(2 / 3)


def test_noise_is_never_the_better_picture(tmp_path: Path) -> None:
    made = make_study(tmp_path, checks=1)
    (check,) = made.study.checks
    true, noise = check.pictures
    for shown in ((true, noise), (noise, true)):
        for choice in ("first", "second", "both", "neither"):
            given = Answer(1, check.name, choice, shown, "now")
            passed = not compute_results(made.study, [given]).left_out
            chose_true = choice == ("first" if shown[0] == true else "second")
            assert passed == (chose_true or choice == "neither")


def tell(study: Study, said: dict[str, list[str]]) -> list[Answer]:
    """Answers to the questions about each method: of rater 1, 2, ..., in each cluster."""
    owner = {each.name: each.method for each in study.pictures}
    return [
        Answer(rater, q.name, choice, q.pictures, "now")
        for q in study.questions
        for rater, choice in enumerate(said[str(owner[q.pictures[0]])], 1)
    ]


def test_a_tie_is_no_majority_and_is_told() -> None:
    study = imagine(Free(question="Is it calm?"), clusters=3)
    found = compute_results(study, tell(study, {"a": ["Yes", "No"], "b": ["Yes", "Yes"]}))
    tie, sure = (found.rates[label]["success"]["majority"] for label in "ab")
    assert (tie.interval.value, tie.ties) == (0.0, 3)
    assert (sure.interval.value, sure.ties) == (1.0, 0)
    assert found.rates["a"]["success"]["answers"].interval.value == 0.5
    assert any(
        each.startswith("Up to 3 questions of a method had as many") for each in list_remarks(found)
    )


def test_edits_have_three_levels_of_strictness_and_those_of_chance() -> None:
    """DOODL's Figure 8: five labelers, beside a binomial distribution."""
    study = imagine(EditSuccess(), clusters=12, methods=("a", "b", "c"), raters=5)
    said = {"a": ["yes"] * 5, "b": ["yes"] * 4 + ["no"], "c": ["yes"] * 3 + ["no"] * 2}
    found = compute_results(study, tell(study, said))
    values = [
        [found.rates[label]["approved"][level].interval.value for level in LEVELS]
        for label in "abc"
    ]
    assert values == [[1, 1, 1, 1], [0.8, 1, 1, 0], [0.6, 1, 0, 0]]
    assert found.chance["approved"] == pytest.approx(
        {"answers": 0.5, "majority": 0.5, "all but one": 6 / 32, "all": 1 / 32}
    )
    assert [need(level, 5) for level in LEVELS[1:]] == [3, 4, 5]


def test_the_same_thing_may_be_read_less_strictly() -> None:
    """DOODL's Table S3: of all answers, by majority, by all; "similar" allowed or not."""
    study = imagine(SameThing(), clusters=10, methods=("a", "b"))
    said = {"a": ["same", "same", "similar"], "b": ["similar", "other", "mismatch"]}
    found = compute_results(study, tell(study, said))
    strict, lax = (found.rates["a"][bar] for bar in ("same", "same or similar"))
    assert [strict[level].interval.value for level in ("answers", "majority", "all")] == (
        pytest.approx([2 / 3, 1, 0])
    )
    assert [lax[level].interval.value for level in ("answers", "majority", "all")] == [1, 1, 1]
    assert found.rates["b"]["same or similar"]["majority"].interval.value == 0
    assert found.agreement.level == "ordinal"


@pytest.mark.parametrize(
    "protocol", [Pairwise(), Free(question="Is it calm?")], ids=lambda each: each.kind
)
def test_agreement_is_what_the_definition_says(protocol: Protocol) -> None:
    """1 - observed / expected disagreement of pairs of answers to the same question, some missing."""
    study, source = imagine(protocol, clusters=15, methods=("a", "b")), random.Random(3)
    values = [each.value for each in protocol.choices]
    answers = [
        Answer(rater, shown.question.name, source.choice(values), shown.pictures, "now")
        for rater in (1, 2, 3)
        for shown in assign(study, rater)
        if source.random() < 0.8
    ]
    by_question: dict[str, list[str]] = {}
    for each in answers:
        question = next(q for q in study.questions if q.name == each.question)
        position = each.shown.index(question.pictures[0])
        by_question.setdefault(each.question, []).append(protocol.outcome(each.choice, position))
    units = [said for said in by_question.values() if len(said) > 1]
    pooled = [value for said in units for value in said]
    n = len(pooled)
    observed = sum(
        sum(x != y for i, x in enumerate(said) for j, y in enumerate(said) if i != j) / (len(said) - 1)
        for said in units
    ) / n  # fmt: skip
    expected = sum(x != y for i, x in enumerate(pooled) for j, y in enumerate(pooled) if i != j)
    wanted = 1 - observed / (expected / (n * (n - 1)))
    found = compute_results(study, answers).agreement
    assert found.alpha == pytest.approx(wanted)
    assert found.questions == len(units)


def test_agreement_that_is_not_defined_is_told() -> None:
    study = imagine(Free(question="Is it calm?"), clusters=3)
    same = compute_results(study, tell(study, {"a": ["Yes", "Yes"], "b": ["Yes", "Yes"]}))
    assert "is not defined: all shared answers are the same" in describe_agreement(same)
    alone = compute_results(study, answer(study, 1, lambda *_: "No"))
    assert "is not defined: no question has two answers" in describe_agreement(alone)
    assert json.loads(json.dumps(alone.as_json()["agreement"]["questions"])) == 0


def test_who_has_not_begun_and_who_has_not_ended_is_told() -> None:
    study = imagine(clusters=10)
    found = compute_results(study, answer(study, 1, prefer("a"))[:4])
    said = list_remarks(found)
    assert "2 raters of 3 did not begin." in said
    assert "1 rater did not answer everything." in said
    assert "4 questions have the answer of one rater only, which is then its majority." in said
    nobody = compute_results(study, [])
    assert nobody.rates == {}
    assert "There are no answers that count yet." in make_report(nobody)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_numbers_and_a_page_that_needs_nothing(tmp_path: Path) -> None:
    made = make_study(tmp_path, protocol=Pairwise(question='Which is "better" <here>?'))
    for rater, order in ((1, ("doodl", "plain")), (2, ("doodl", "plain")), (3, ("plain", "doodl"))):
        fill(made, rater, prefer(*order))
    found = write_report(made)
    told = json.loads((made.path / "report.json").read_text())
    assert told["methods"]["doodl"]["better or both"]["majority"]["rate"] == 1.0
    assert set(told["methods"]) == {"plain", "one-step", "doodl"}
    assert told["agreement"]["questions"] == 12
    assert told["protocol"]["kind"] == "pairwise"
    page = (made.path / "report.html").read_text()
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    tags = {tag for tag, _ in reader.tags}
    assert {"table", "caption", "th", "h1", "svg"} <= tags
    assert not tags & {"script", "link", "img", "iframe"}
    assert "://" not in page
    assert "Which is &quot;better&quot; &lt;here&gt;?" in page
    assert f"alpha (nominal) is {found.agreement.alpha:.3f}" in page
    value = found.rates["plain"]["better or both"]["answers"].interval.value
    assert f"{100 * value:.1f} %" in page
    assert re.search(r'<html lang="en">', page)


def test_answers_are_a_table(tmp_path: Path) -> None:
    made = make_study(tmp_path)
    for rater in (1, 2):
        fill(made, rater, prefer("doodl", "one-step"))
    again = assign(made.study, 1)[0]
    made.answers.add(1, again.question.name, "neither", again.pictures)
    count = write_answers(made, tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count == 2 * (12 + 2) + 1
    assert [row["counts"] for row in rows if row["question"] == again.question.name
            and row["rater"] == "1"] == ["0", "1"]  # fmt: skip
    for row in rows:
        if row["check"] or row["choice"] == "neither":
            continue
        best = "doodl" if "doodl" in row["methods"] else "one-step"
        assert row["choice"] == ("first" if row["left"] == best else "second")
        assert row["outcome"] == ("better" if row["methods"].startswith(best) else "worse")
        assert {row["left"], row["right"]} == set(row["methods"].split(" | "))
        assert (row["prompt"], row["seed"] in "0123") == ("a red cat", True)
    assert {row["right_answer"] for row in rows if row["check"]} == {"1"}
    empty = make_study(tmp_path / "empty")
    assert write_answers(empty, tmp_path / "none.csv") == 0


def test_without_its_library_agreement_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk.metrics.agreement", None)
    study = imagine(clusters=2)
    answers = [each for rater in (1, 2) for each in answer(study, rater, likes(0.5, rater))]
    with pytest.raises(UserError, match=r'needs nltk: pip install "chainrule\[study\]"'):
        compute_results(study, answers)
