"""What came of a study, in numbers: success rates, differences, and how much raters agree.

A question and a method have k approvals of n raters, an approval being an answer whose outcome is
in the protocol's bar. How strictly they are read is one of four levels:

    answers       the share of all answers that approve, k / n
    majority      k > n / 2, as in DOODL's Figure 5; k = n / 2 is a tie, no success, and is counted
    all but one   k >= n - 1, and a majority
    all           k = n

The 95 % intervals are of a bootstrap that draws whole clusters (all of a prompt and a seed, and of
an original): pictures of one prompt and seed succeed and fail together, and so do the answers to
them. Differences are drawn pairwise, from the clusters that both methods have. Raters are taken as
they are: the intervals are about other prompts and seeds, not about other raters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

import chainrule
from chainrule.errors import UserError
from chainrule.metrics import Interval, bootstrap, wilson
from chainrule.study.answers import Answer
from chainrule.study.protocols import Protocol
from chainrule.study.spec import Question, Study

ANSWERS_LEVEL, MAJORITY, ALL_BUT_ONE, ALL = "answers", "majority", "all but one", "all"
LEVELS = (ANSWERS_LEVEL, MAJORITY, ALL_BUT_ONE, ALL)
"""How strictly the answers to a question are read, from the least."""


@dataclass(frozen=True)
class Verdict:
    """What a rater said of a picture.

    Args:
        question: The question's name.
        cluster: The question's.
        methods: Those that it compares.
        method: Whose the picture is.
        rater: Who said it.
        outcome: What they said.
    """

    question: str
    cluster: int
    methods: tuple[str, ...]
    method: str
    rater: int
    outcome: str


@dataclass(frozen=True)
class Rate:
    """How often something succeeded.

    Args:
        interval: The rate with its 95 % interval.
        units: Of how many answers, or questions.
        clusters: In how many clusters these are.
        ties: How many questions have as many approvals as not.
    """

    interval: Interval
    units: int
    clusters: int
    ties: int

    def as_json(self) -> dict[str, Any]:
        """As numbers by their names; NaN where there is no interval."""
        value, low, high = self.interval
        counts = {"units": self.units, "clusters": self.clusters, "ties": self.ties}
        return {"rate": value, "low": low, "high": high, **counts}


@dataclass(frozen=True)
class Difference:
    """By how much one method succeeds more often than another.

    Args:
        methods: The one, and the other.
        bar: What counts as a success.
        level: How strictly.
        interval: The difference of the rates, with its 95 % interval.
        clusters: How many have both.
    """

    methods: tuple[str, str]
    bar: str
    level: str
    interval: Interval
    clusters: int


@dataclass(frozen=True)
class Comparison:
    """Two methods side by side.

    Args:
        methods: The one, and the other.
        answers: How many answers there are of each outcome, as it is for the one.
        wins: Of how many questions more raters prefer the one.
        draws: Of how many as many do.
        losses: Of how many more prefer the other.
    """

    methods: tuple[str, str]
    answers: Mapping[str, int]
    wins: int
    draws: int
    losses: int


@dataclass(frozen=True)
class Agreement:
    """How much the raters agree, by Krippendorff's alpha: 1 wholly, 0 as by chance.

    Args:
        alpha: NaN if it is not defined: no question has two answers, or all answers are the same.
        level: "nominal", or "ordinal" where the answers have an order.
        questions: How many have two answers or more.
    """

    alpha: float
    level: str
    questions: int


@dataclass(frozen=True)
class Results:
    """All that came of a study.

    Args:
        study: What was asked.
        counted: The raters who count.
        left_out: Those who do not, having failed attention checks, by how many they failed.
        answered: How many questions each rater answered, the checks among them.
        rates: By method, bar and level.
        differences: Of each two methods that can be compared.
        comparisons: Of pairs.
        alone: How many questions have one answer only.
        chance: The rates of raters who answer by chance, by bar and level.
        agreement: Of those who count.
    """

    study: Study
    counted: tuple[int, ...]
    left_out: Mapping[int, int]
    answered: Mapping[int, int]
    rates: Mapping[str, Mapping[str, Mapping[str, Rate]]]
    differences: tuple[Difference, ...]
    comparisons: tuple[Comparison, ...]
    alone: int
    chance: Mapping[str, Mapping[str, float]]
    agreement: Agreement

    def as_json(self) -> dict[str, Any]:
        """As numbers by their names."""
        study = self.study
        return {
            "chainrule": chainrule.__version__,
            "protocol": study.protocol.model_dump(mode="json"),
            "seed": study.seed,
            "runs": [each.model_dump() for each in study.runs],
            "questions": len(study.questions),
            "clusters": len({each.cluster for each in study.questions}),
            "raters": {
                "foreseen": study.raters,
                "answered": {str(rater): n for rater, n in self.answered.items()},
                "counted": list(self.counted),
                "left_out": {str(rater): n for rater, n in self.left_out.items()},
            },
            "methods": {
                label: {
                    bar: {level: rate.as_json() for level, rate in levels.items()}
                    for bar, levels in bars.items()
                }
                for label, bars in self.rates.items()
            },
            "differences": [
                {"methods": list(each.methods), "bar": each.bar, "level": each.level,
                 **_name_ends("difference", each.interval), "clusters": each.clusters}
                for each in self.differences
            ],
            "comparisons": [
                {"methods": list(each.methods), "answers": dict(each.answers), "wins": each.wins,
                 "draws": each.draws, "losses": each.losses}
                for each in self.comparisons
            ],
            "chance": self.chance,
            "agreement": {"alpha": self.agreement.alpha, "level": self.agreement.level,
                          "questions": self.agreement.questions},
        }  # fmt: skip


def _name_ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, "low": interval.low, "high": interval.high}


def compute_results(study: Study, answers: Sequence[Answer]) -> Results:
    """The results of a study.

    Args:
        study: What was asked.
        answers: Those that count: of each rater the last to each question.

    Returns:
        All of it; where there is no answer yet, without rates.
    """
    left_out = find_inattentive(study, answers)
    raters = sorted({each.rater for each in answers})
    verdicts = read_verdicts(study, [each for each in answers if each.rater not in left_out])
    rates: dict[str, dict[str, dict[str, Rate]]] = {}
    for label in study.methods:
        own = [each for each in verdicts if each.method == label]
        if own:
            rates[label] = {
                bar: {level: estimate_rate(own, passing, level) for level in LEVELS}
                for bar, passing in study.protocol.bars.items()
            }
    return Results(
        study=study,
        counted=tuple(rater for rater in raters if rater not in left_out),
        left_out=left_out,
        answered={rater: sum(each.rater == rater for each in answers) for rater in raters},
        rates=rates,
        differences=tuple(_compare_all(study, verdicts)),
        comparisons=tuple(_count_preferences(study, verdicts)),
        alone=list(_count_raters(verdicts).values()).count(1),
        chance=_find_chance(study.protocol, verdicts),
        agreement=measure_agreement(study, verdicts),
    )


def find_inattentive(study: Study, answers: Sequence[Answer]) -> dict[int, int]:
    """The raters who failed more attention checks than they may, and how many each failed.

    Args:
        study: What was asked.
        answers: Those that count.
    """
    checks = {each.name: each for each in study.checks}
    failed: dict[int, int] = {}
    for answer in answers:
        check = checks.get(answer.question)
        if check is not None and not _is_right(study.protocol, check, answer):
            failed[answer.rater] = failed.get(answer.rater, 0) + 1
    return {rater: n for rater, n in sorted(failed.items()) if n > study.slips}


def _is_right(protocol: Protocol, check: Question, answer: Answer) -> bool:
    position = answer.shown.index(check.pictures[0])
    return protocol.outcome(answer.choice, position) in check.right


def read_verdicts(study: Study, answers: Sequence[Answer]) -> list[Verdict]:
    """What the answers say of each picture that is compared; checks say nothing.

    Args:
        study: What was asked.
        answers: The answers.
    """
    questions = {each.name: each for each in study.questions}
    owners = {each.name: each.method or "" for each in study.pictures}
    found = []
    for answer in answers:
        question = questions.get(answer.question)
        if question is None:
            continue
        methods = tuple(owners[name] for name in question.pictures)
        for name, method in zip(question.pictures, methods, strict=True):
            outcome = study.protocol.outcome(answer.choice, answer.shown.index(name))
            found.append(
                Verdict(question.name, question.cluster, methods, method, answer.rater, outcome)
            )
    return found


# --- rates --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Counts:
    """Successes and trials, by cluster."""

    successes: Mapping[int, int]
    trials: Mapping[int, int]
    ties: int


def _count(verdicts: Sequence[Verdict], passing: Collection[str], level: str) -> _Counts:
    """How many answers, or questions, succeed in each cluster."""
    by_question: dict[tuple[int, str], list[bool]] = {}
    for each in verdicts:
        by_question.setdefault((each.cluster, each.question), []).append(each.outcome in passing)
    successes: dict[int, int] = {}
    trials: dict[int, int] = {}
    ties = 0
    for (cluster, _), said in by_question.items():
        k, n = sum(said), len(said)
        ties += 2 * k == n
        passed, of = (k, n) if level == ANSWERS_LEVEL else (int(k >= need(level, n)), 1)
        successes[cluster] = successes.get(cluster, 0) + passed
        trials[cluster] = trials.get(cluster, 0) + of
    return _Counts(successes, trials, ties)


def need(level: str, raters: int) -> int:
    """How many of the raters of a question must approve.

    >>> [need(level, 5) for level in LEVELS[1:]], [need(level, 3) for level in LEVELS[1:]]
    ([3, 4, 5], [2, 2, 3])

    Args:
        level: "majority", "all but one" or "all".
        raters: How many there are.
    """
    majority = raters // 2 + 1
    return {MAJORITY: majority, ALL_BUT_ONE: max(raters - 1, majority), ALL: raters}[level]


def estimate_rate(verdicts: Sequence[Verdict], passing: Collection[str], level: str) -> Rate:
    """The rate of success of one method, with an interval by clusters.

    Where all clusters are wholly successes, or failures, drawing them again can show no spread: the
    interval is Wilson's then, of as many trials as there are clusters.

    Args:
        verdicts: Of the method.
        passing: The outcomes that count as success.
        level: How strictly, one of `LEVELS`.

    Raises:
        UserError: There is no verdict.
    """
    counts = _count(verdicts, passing, level)
    clusters = list(counts.trials)
    k = np.array([counts.successes[each] for each in clusters])
    n = np.array([counts.trials[each] for each in clusters])
    if not len(clusters):
        raise UserError("there is no answer to count", "wait for some")
    if k.sum() in (0, n.sum()):
        interval = wilson(len(clusters) if k.sum() else 0, len(clusters))
    else:
        interval = _draw_clusters(len(clusters), lambda rows: k[rows].sum() / n[rows].sum())
    return Rate(interval, int(n.sum()), len(clusters), counts.ties)


def _draw_clusters(clusters: int, statistic: Callable[[np.ndarray], float]) -> Interval:
    """A statistic of clusters, by the bootstrap; of clusters that are all alike no interval."""
    found = bootstrap(range(clusters), lambda rows: statistic(rows.astype(int)))
    return found if found.low < found.high else Interval(found.value, math.nan, math.nan)


def _compare_all(study: Study, verdicts: Sequence[Verdict]) -> list[Difference]:
    """The differences of each two methods; of pairs, from the questions that show both."""
    found = []
    for one, other in combinations(study.methods, 2):
        paired = verdicts
        if study.protocol.compared == 2:
            paired = [each for each in verdicts if set(each.methods) == {one, other}]
        for bar, passing in study.protocol.bars.items():
            for level in LEVELS:
                sides = [
                    _count([each for each in paired if each.method == label], passing, level)
                    for label in (one, other)
                ]
                difference = _subtract(*sides)
                if difference is not None:
                    found.append(Difference((one, other), bar, level, *difference))
    return found


def _subtract(one: _Counts, other: _Counts) -> tuple[Interval, int] | None:
    """The difference of two rates over the clusters that both have; None if there are none."""
    clusters = [each for each in one.trials if each in other.trials]
    if not clusters:
        return None
    k, n = (
        np.array([[getattr(side, name)[each] for side in (one, other)] for each in clusters])
        for name in ("successes", "trials")
    )

    def statistic(rows: np.ndarray) -> float:
        first, second = k[rows].sum(axis=0) / n[rows].sum(axis=0)
        return float(first - second)

    return _draw_clusters(len(clusters), statistic), len(clusters)


def _count_preferences(study: Study, verdicts: Sequence[Verdict]) -> list[Comparison]:
    """How often one method of a pair was preferred: by answers, and by questions."""
    if study.protocol.compared != 2:
        return []
    found = []
    for pair in combinations(study.methods, 2):
        paired = [each for each in verdicts if set(each.methods) == set(pair)]
        own = [each for each in paired if each.method == pair[0]]
        if not own:
            continue
        margins: dict[str, int] = {}
        for each in own:
            step = {"better": 1, "worse": -1}.get(each.outcome, 0)
            margins[each.question] = margins.get(each.question, 0) + step
        outcomes = ("better", "both", "neither", "worse")
        answers = {name: sum(each.outcome == name for each in own) for name in outcomes}
        signs = [(margin > 0) - (margin < 0) for margin in margins.values()]
        counts = (signs.count(1), signs.count(0), signs.count(-1))
        found.append(Comparison(pair, answers, *counts))
    return found


def _find_chance(protocol: Protocol, verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """The rates of raters who choose each answer equally often (DOODL's Figure 8 plots these).

    The approvals of n raters are then binomial; questions may have different n.
    """
    sizes = list(_count_raters(verdicts).values())
    outcomes = [protocol.outcome(choice.value, 0) for choice in protocol.choices]
    found: dict[str, dict[str, float]] = {}
    for bar, passing in protocol.bars.items():
        p = sum(outcome in passing for outcome in outcomes) / len(outcomes)
        levels = {ANSWERS_LEVEL: p}
        if sizes:
            levels |= {
                level: sum(_exceed(n, p, need(level, n)) for n in sizes) / len(sizes)
                for level in LEVELS[1:]
            }
        found[bar] = levels
    return found


def _count_raters(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many raters have answered each question."""
    raters: dict[str, set[int]] = {}
    for each in verdicts:
        raters.setdefault(each.question, set()).add(each.rater)
    return {question: len(some) for question, some in raters.items()}


def _exceed(n: int, p: float, least: int) -> float:
    """The chance of at least so many successes in n trials."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(least, n + 1))


# --- agreement ----------------------------------------------------------------------------------


def measure_agreement(study: Study, verdicts: Sequence[Verdict]) -> Agreement:
    """Krippendorff's alpha (2004) of the answers, whatever the sides on which pictures were shown.

    It holds for any number of raters, of whom not all have answered everything.

    Args:
        study: What was asked.
        verdicts: What was said.

    Raises:
        UserError: The package `nltk` is not installed.
    """
    first = [each for each in verdicts if each.method == each.methods[0]]
    answered = _count_raters(first)
    shared = [each for each in first if answered[each.question] > 1]
    level = "ordinal" if study.protocol.ordered else "nominal"
    questions = sum(n > 1 for n in answered.values())
    if len({each.outcome for each in shared}) < 2:
        return Agreement(math.nan, level, questions)
    try:
        from nltk.metrics.agreement import AnnotationTask
        from nltk.metrics.distance import binary_distance
    except ModuleNotFoundError:
        raise UserError(
            "measuring agreement needs nltk", 'pip install "chainrule[study]"'
        ) from None
    outcomes = [study.protocol.outcome(each.value, 0) for each in study.protocol.choices]
    counts = [sum(each.outcome == outcome for each in shared) for outcome in outcomes]
    said = [(each.rater, each.question, outcomes.index(each.outcome)) for each in shared]
    distance = _rank_distance(counts) if study.protocol.ordered else binary_distance
    return Agreement(float(AnnotationTask(said, distance).alpha()), level, questions)


def _rank_distance(counts: Sequence[int]) -> Callable[[int, int], float]:
    """Krippendorff's distance of answers that have an order: by how many lie between them.

    Args:
        counts: How often each answer was given.
    """

    def measure(one: int, other: int) -> float:
        low, high = sorted((one, other))
        between = sum(counts[low : high + 1]) - (counts[low] + counts[high]) / 2
        return float(between**2)

    return measure
