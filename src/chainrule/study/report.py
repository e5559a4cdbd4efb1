"""The results of a study as files: report.json, report.html, and the answers as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chainrule.metrics import Interval
from chainrule.runs.folder import write_text
from chainrule.runs.report import dump_csv, dump_json
from chainrule.study.folder import StudyFolder
from chainrule.study.pages import draw_intervals, make_page, make_table
from chainrule.study.results import MAJORITY, Rate, Results, compute_results

FEW = 10
"""With fewer clusters than this an interval says little."""


def write_report(folder: StudyFolder) -> Results:
    """Write report.json and report.html into a study's folder.

    Args:
        folder: The study's.

    Returns:
        What they say.
    """
    results = compute_results(folder.study, folder.answers.read_last())
    write_text(folder.path / "report.json", dump_json(results.as_json()))
    write_text(folder.path / "report.html", make_report(results))
    return results


def write_answers(folder: StudyFolder, path: Path) -> int:
    """Write all answers as CSV, a row each; how many there are.

    Args:
        folder: The study's.
        path: The file.
    """
    rows = list(list_answers(folder))
    write_text(path, dump_csv(rows) if rows else "")
    return len(rows)


def list_answers(folder: StudyFolder) -> Iterable[dict[str, Any]]:
    """All answers with what they are about, those that do not count any more among them.

    Args:
        folder: The study's.

    Returns:
        Of each answer a row of cells, by the names of their columns. `left` and `right` are the
        methods whose pictures were there ("noise" of a check); `outcome` is what was said of the
        first of `methods`.
    """
    study = folder.study
    questions = {each.name: each for each in (*study.questions, *study.checks)}
    owners = {each.name: each.method or "noise" for each in study.pictures}
    answers = folder.answers.read_all()
    last = {(each.rater, each.question): each for each in answers}
    for answer in answers:
        question = questions[answer.question]
        cluster = study.clusters[question.cluster]
        outcome = study.protocol.outcome(answer.choice, answer.shown.index(question.pictures[0]))
        sides = [owners[name] for name in answer.shown]
        yield {
            "rater": answer.rater,
            "question": answer.question,
            "check": question.check or "",
            "prompt": cluster.prompt,
            "seed": cluster.seed,
            "methods": " | ".join(owners[name] for name in question.pictures),
            "left": sides[0],
            "right": sides[1] if len(sides) > 1 else "",
            "choice": answer.choice,
            "outcome": outcome,
            "right_answer": int(outcome in question.right) if question.check else "",
            "counts": int(last[answer.rater, answer.question] is answer),
            "at": answer.at,
        }


def list_remarks(results: Results) -> list[str]:
    """What a reader should know of the numbers, a sentence each."""
    study = results.study
    missing = study.raters - len(results.answered)
    of_each = study.per_rater + len(study.checks)
    partly = sum(n < of_each for n in results.answered.values())
    said = []
    if missing > 0:
        said.append(f"{_count(missing, 'rater')} of {study.raters} did not begin.")
    if partly:
        said.append(f"{_count(partly, 'rater')} did not answer everything.")
    for rater, n in results.left_out.items():
        said.append(
            f"Rater {rater} is left out, having failed {_count(n, 'attention check')} "
            f"of {len(study.checks)}."
        )
    alone = results.alone
    if alone:
        said.append(
            f"{_count(alone, 'question')} {'has' if alone == 1 else 'have'} the answer of one "
            "rater only, which is then its majority."
        )
    ties = max(
        (rate.ties for bars in results.rates.values() for rate in _list_rates(bars)), default=0
    )
    if ties:
        said.append(
            f"Up to {_count(ties, 'question')} of a method had as many answers for a success as "
            "against it: such a tie is no majority."
        )
    clusters = max(
        (rate.clusters for bars in results.rates.values() for rate in _list_rates(bars)), default=0
    )
    if 0 < clusters < FEW:
        said.append(
            f"There {'is' if clusters == 1 else 'are'} only {_count(clusters, 'prompt and seed')}: "
            "the intervals are rough."
        )
    return said


def _list_rates(bars: Any) -> list[Rate]:
    return [rate for levels in bars.values() for rate in levels.values()]


def _count(n: int, what: str) -> str:
    plural = "prompts and seeds" if what == "prompt and seed" else f"{what}s"
    return f"{n} {what if n == 1 else plural}"


def write_share(interval: Interval, unit: str = "%") -> str:
    """A rate in percent, with its interval, or a difference of rates in points.

    >>> write_share(Interval(0.5, 0.25, 0.75))
    '50.0 % [25.0, 75.0]'
    >>> write_share(Interval(-0.1, math.nan, math.nan), "points")
    '-10.0 [no interval]'

    Args:
        interval: It, as a share.
        unit: "%", or "points", which is not written.
    """
    value, low, high = (100 * each for each in interval)
    ends = "no interval" if math.isnan(low) else f"{low:.1f}, {high:.1f}"
    return f"{value:.1f}{' %' if unit == '%' else ''} [{ends}]"


def tabulate_rates(results: Results) -> tuple[list[str], list[list[str]]]:
    """The success rates: the names of the columns, and the rows."""
    rows = []
    for label, bars in results.rates.items():
        for bar, levels in bars.items():
            cells = [write_share(rate.interval) for rate in levels.values()]
            rows.append([label, bar, *cells])
    for bar, chances in results.chance.items():
        if rows:
            rows.append(["(chance)", bar, *(f"{100 * p:.1f} %" for p in chances.values())])
    return ["method", "what counts", "of answers", "by majority", "by all but one", "by all"], rows


def tabulate_differences(results: Results) -> tuple[list[str], list[list[str]]]:
    """The differences between methods: the names of the columns, and the rows."""
    rows: dict[tuple[str, str], list[str]] = {}
    for each in results.differences:
        name = f"{each.methods[0]} - {each.methods[1]}"
        rows.setdefault((name, each.bar), []).append(write_share(each.interval, "points"))
    columns = ["difference", "what counts", "of answers", "by majority", "by all but one", "by all"]
    return columns, [[*key, *cells] for key, cells in rows.items()]


def tabulate_comparisons(results: Results) -> tuple[list[str], list[list[str]]]:
    """What was said of pairs: the names of the columns, and the rows."""
    columns = ["pair", "first better", "both", "neither", "second better", "win-draw-loss"]
    rows = [
        [
            f"{each.methods[0]} / {each.methods[1]}",
            *(str(n) for n in each.answers.values()),
            f"{each.wins}-{each.draws}-{each.losses}",
        ]
        for each in results.comparisons
    ]
    return columns, rows


def describe_agreement(results: Results) -> str:
    """How much the raters agree, in a sentence."""
    found = results.agreement
    if math.isnan(found.alpha):
        why = (
            "all shared answers are the same" if found.questions else "no question has two answers"
        )
        return f"Krippendorff's alpha is not defined: {why}."
    questions = _count(found.questions, "question")
    return f"Krippendorff's alpha ({found.level}) is {found.alpha:.3f}, of {questions}."


def make_report(results: Results) -> str:
    """The page of the results, as HTML."""
    from html import escape

    study = results.study
    counted = len(results.counted)
    facts = (
        f"{_count(len(study.questions), 'question')} about "
        f"{_count(len(study.clusters), 'prompt and seed')}, answered by "
        f"{_count(counted, 'rater')} who {'counts' if counted == 1 else 'count'}."
    )
    parts = [
        "<h1>Results of a blind study</h1>",
        f"<blockquote>{escape(study.protocol.question)}</blockquote>",
        f"<p>Protocol {escape(study.protocol.kind)}. {facts}</p>",
    ]
    remarks = "".join(f"<li>{escape(each)}</li>" for each in list_remarks(results))
    parts.append(f"<ul>{remarks}</ul>" if remarks else "")
    if not results.rates:
        parts.append("<p>There are no answers that count yet.</p>")
    else:
        bar = next(iter(study.protocol.bars))
        shown = [(label, bars[bar][MAJORITY].interval) for label, bars in results.rates.items()]
        title = f"Success ({bar}) by majority, with 95 % intervals"
        parts.append(f"<h2>{escape(title)}</h2>\n{draw_intervals(title, shown)}")
        parts += _make_tables(results)
        parts.append(f"<p>{escape(describe_agreement(results))}</p>")
    return make_page("Results of a blind study", "\n".join(part for part in parts if part))


def _make_tables(results: Results) -> list[str]:
    """The tables of the page that have rows."""
    ends = "with 95 % intervals that draw whole prompts and seeds"
    chance = "; (chance) is of raters who choose each answer equally often"
    tables = (
        (f"Success rates, {ends}{chance}", *tabulate_rates(results), 2),
        (f"Differences of success rates in points, {ends}", *tabulate_differences(results), 2),
        (
            "Answers to pairs, and which of the two more raters preferred, by question",
            *tabulate_comparisons(results),
            1,
        ),
    )
    return [make_table(*table) for table in tables if table[2]]
