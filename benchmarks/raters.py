"""What a study finds, beside what its raters were told to think: `python benchmarks/raters.py`.

Pairs of two methods' pictures, each of which is good or not: of easy prompts and seeds 90 % of one
method's and 70 % of the other's, of hard ones 50 % and 10 %. Raters see whether a picture is good,
but for mistakes, and answer as DOODL's Figure 5 asks (the one, the other, both, neither). They get
the questions that `chainrule study` would give them, and their answers are counted by it. A rater
who answers at random is among some of them, whom only the attention checks can find.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

from base import Options, machine, publish, table
from chainrule.metrics import wilson
from chainrule.study import Answer, Shown, Study, assign
from chainrule.study.protocols import ASKED, NOISE, Pairwise
from chainrule.study.results import (
    MAJORITY,
    Verdict,
    estimate_rate,
    find_inattentive,
    measure_agreement,
    read_verdicts,
)
from chainrule.study.spec import Cluster, Picture, Question

GOOD = {"one": (0.9, 0.5), "other": (0.7, 0.1)}
"""How many of a method's pictures are good, of easy and of hard prompts and seeds."""
PASSING = Pairwise().bars["better or both"]


@dataclass(frozen=True)
class Case:
    """Raters, and what they see.

    Args:
        clusters: How many prompts and seeds there are.
        raters: How many raters do their best.
        mistakes: How often they take a good picture for a bad one, or a bad one for a good one.
        careless: How many answer at random.
    """

    clusters: int
    raters: int
    mistakes: float
    careless: int = 0

    def __str__(self) -> str:
        more = f" and {self.careless} at random" if self.careless else ""
        return f"{self.raters} raters{more}, {100 * self.mistakes:g} % mistakes, {self.clusters}"


CASES = (
    Case(24, 3, 0.1),
    Case(96, 3, 0.1),
    Case(96, 3, 0.3),
    Case(96, 5, 0.1),
    Case(96, 3, 0.1, careless=1),
)


@dataclass(frozen=True)
class Found:
    """What one study found of one method.

    Args:
        rate: Its success rate by the majority.
        held: Whether the interval has the truth.
        answers: Its share of all answers.
        answers_held: Whether that interval has the truth.
        apart_held: Whether it would, if answers were taken for independent.
    """

    rate: float
    held: bool
    answers: float
    answers_held: bool
    apart_held: bool


def make_study(clusters: int, raters: int, seed: int) -> Study:
    """Pairs of two methods' pictures, which nobody looks at, with two attention checks."""
    pictures = [
        Picture(name=f"{2 * k + i:016x}", digest="", method=label)
        for k in range(clusters)
        for i, label in enumerate(GOOD)
    ]
    names = [(pictures[2 * k].name, pictures[2 * k + 1].name) for k in range(clusters)]
    questions = [
        Question(name=f"{10**6 + k:016x}", cluster=k, pictures=pair) for k, pair in enumerate(names)
    ]
    noise = Picture(name=f"{10**7:016x}", digest="")
    checks = (
        Question(
            name=f"{10**8:016x}", cluster=0, pictures=(names[0][0], noise.name), check=NOISE,
            right=Pairwise.right_of_noise,
        ),
        Question(
            name=f"{10**8 + 1:016x}", cluster=0, pictures=names[0], check=ASKED, right=("both",)
        ),
    )  # fmt: skip
    return Study(
        protocol=Pairwise(),
        methods=tuple(GOOD),
        seed=seed,
        raters=raters,
        per_rater=clusters,
        slips=0,
        runs=(),
        clusters=tuple(Cluster(prompt="", seed=k) for k in range(clusters)),
        pictures=(*pictures, noise),
        questions=tuple(questions),
        checks=checks,
    )


def answer(study: Study, case: Case, seed: int) -> list[Answer]:
    """What all raters answer."""
    source, found = random.Random(seed), []
    easy = [source.random() < 0.5 for _ in range(case.clusters)]
    good = {
        each.name: source.random() < GOOD[str(each.method)][0 if easy[k // 2] else 1]
        for k, each in enumerate(study.pictures[:-1])
    }
    for rater in range(1, case.raters + case.careless + 1):
        for shown in assign(study, rater):
            if rater > case.raters:
                choice = source.choice([each.value for each in study.protocol.choices])
            else:
                choice = judge(shown, good, case.mistakes, source)
            found.append(Answer(rater, shown.question.name, choice, shown.pictures, ""))
    return found


def judge(shown: Shown, good: dict[str, bool], mistakes: float, source: random.Random) -> str:
    """What a rater answers who does what can be done, and heeds checks."""
    if shown.question.check == ASKED:
        return shown.question.right[0]
    if shown.question.check == NOISE:
        return "first" if shown.pictures == shown.question.pictures else "second"
    left, right = (good[name] ^ (source.random() < mistakes) for name in shown.pictures)
    return {(True, True): "both", (True, False): "first", (False, True): "second"}.get(
        (left, right), "neither"
    )


def find_truth(label: str, case: Case) -> tuple[float, float]:
    """A method's true rates: by the majority of the raters, and of all answers."""
    share, right = fmean(GOOD[label]), 1 - case.mistakes
    raters, need = case.raters, case.raters // 2 + 1
    most = sum(
        comb(raters, k) * right**k * case.mistakes ** (raters - k) for k in range(need, raters + 1)
    )
    by_majority, of_answers = (share * p + (1 - share) * (1 - p) for p in (most, right))
    return by_majority, of_answers


def count(verdicts: Sequence[Verdict], label: str, case: Case) -> Found:
    """What a study says of a method."""
    own = [each for each in verdicts if each.method == label]
    by_majority, of_answers = find_truth(label, case)
    rate, low, high = estimate_rate(own, PASSING, MAJORITY).interval
    answers = estimate_rate(own, PASSING, "answers").interval
    apart = wilson(sum(each.outcome in PASSING for each in own), len(own))
    return Found(
        rate,
        low <= by_majority <= high,
        answers.value,
        answers.low <= of_answers <= answers.high,
        apart.low <= of_answers <= apart.high,
    )


def try_case(case: Case, first_seed: int, studies: int) -> list[list[object]]:
    """The rows of a case: one for each method."""
    found: dict[str, list[Found]] = {label: [] for label in GOOD}
    alphas, caught = [], []
    for seed in range(first_seed, first_seed + studies):
        study = make_study(case.clusters, case.raters + case.careless, seed)
        answers = answer(study, case, seed)
        left_out = find_inattentive(study, answers)
        caught.append(sum(rater in left_out for rater in range(case.raters + 1, 99)))
        verdicts = read_verdicts(study, [each for each in answers if each.rater not in left_out])
        alphas.append(measure_agreement(study, verdicts).alpha)
        for label in GOOD:
            found[label].append(count(verdicts, label, case))
    rows = []
    for label, each in found.items():
        by_majority, of_answers = find_truth(label, case)
        held = [fmean(getattr(one, name) for one in each)
                for name in ("held", "answers_held", "apart_held")]  # fmt: skip
        truths = [_percent(by_majority), _percent(fmean(one.rate for one in each)),
                  _percent(of_answers), _percent(fmean(one.answers for one in each))]  # fmt: skip
        shares = [_percent(share, 0) for share in held]
        found_out = f"{sum(caught)} of {case.careless * studies}" if case.careless else ""
        rows.append([
            case, label, *truths[:2], shares[0], *truths[2:], *shares[1:], f"{fmean(alphas):.2f}",
            found_out,
        ])  # fmt: skip
    return rows


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--studies", type=int, default=100, toy=2, help="of each case")
    arguments = options.parse(argv)
    cases = [Case(4, 3, 0.1, careless=1)] if arguments.toy else CASES
    header = ["raters, prompts and seeds", "method",
              "by majority, true", "found", "interval holds it",
              "of answers, true", "found", "interval holds it", "answers taken for independent",
              "alpha", "at random, left out"]  # fmt: skip
    n = arguments.studies
    rows = [row for k, case in enumerate(cases) for row in try_case(case, k * n, n)]
    text = [
        "## Blind studies by raters whose minds are known",
        f"`python benchmarks/raters.py --studies {arguments.studies}` on {machine()}. Means of "
        f"{arguments.studies} studies a case; intervals are to hold the truth in 95 % of them.",
        table(header, rows),
    ]
    publish("raters", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
