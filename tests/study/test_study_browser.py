"""A study in a real browser: three raters of known preference, whose rates come out right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import (
    MISSING,
    PATIENCE,
    Server,
    find_barriers,
    in_a_browser,
    open_context,
    shoot,
    start_browser,
)
from chainrule.runs import execute, parse_spec
from chainrule.study import Asked, StudyFolder, create_study
from command import call

pytestmark = in_a_browser
if not MISSING:
    from playwright.sync_api import expect

SEEDS = tuple(range(6))


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    spec = {
        "inputs": {"prompt": "a red circle on a white background", "seed": SEEDS},
        "losses": ["brightness=0.9"],
        "methods": [{"kind": "plain", "steps": 5}, {"kind": "best-of", "steps": 5, "count": 3}],
    }
    for _ in execute(parse_spec(spec), tmp_path / "run"):
        pass
    return create_study(tmp_path / "study", [tmp_path / "run"], Asked(seed=1))


@pytest.fixture
def browser() -> Iterator[Any]:
    with start_browser() as started:
        yield started


class Rater:
    """Somebody with a link, who always likes one method's picture better.

    Args:
        page: Of their own browser.
        study: What is asked.
        likes: The method.
    """

    def __init__(self, page: Any, study: StudyFolder, likes: str) -> None:
        self.page, self.likes = page, likes
        self.owners = {each.name: each.method or "noise" for each in study.study.pictures}

    @property
    def done(self) -> bool:
        return self.page.get_by_role("heading", name="Thank you").is_visible()

    def answer(self) -> None:
        """Answer what the page asks, and wait for the next one."""
        before = self.page.title()
        asked = self.page.get_by_role("heading").inner_text()
        told = re.search(r"Please choose “(.+)” here", asked)
        self.page.get_by_role("button", name=told[1] if told else self._choose()).click()
        expect(self.page).not_to_have_title(before, timeout=PATIENCE)

    def _choose(self) -> str:
        shown = self.page.locator("figure img").evaluate_all("all => all.map(each => each.src)")
        methods = [self.owners[Path(address).stem] for address in shown]
        liked = self.likes if self.likes in methods else next(m for m in methods if m != "noise")
        return f"Picture {1 + methods.index(liked)}"


def test_three_raters_of_known_preference_have_rates_that_come_out_right(
    study: StudyFolder, browser: Any
) -> None:
    server = Server("study", "serve", str(study.path))
    links = [server.said[0].split()[-1], *(server.read_line().split()[-1] for _ in range(2))]
    likes = ("best-of", "best-of", "plain")
    raters = []
    for link, liked in zip(links, likes, strict=True):
        page = open_context(browser, 400 if liked == "plain" else 1280).new_page()
        page.goto(link)
        raters.append(Rater(page, study, liked))
    first = raters[0].page
    assert find_barriers(first) == []
    assert raters[2].page.evaluate("document.documentElement.scrollWidth") <= 400
    shoot(first, "study-question")
    for rater in raters:  # one after another, question by question
        rater.answer()
    server.kill()
    server.start()  # at the same port: the links lead where they led
    assert "the links were printed when they were made" in server.said[0]
    asked = first.title()
    first.reload()
    expect(first).to_have_title(asked)  # what was answered is not asked again
    while not all(rater.done for rater in raters):
        for rater in raters:
            if not rater.done:
                rater.answer()
    server.stop()
    assert call("study", "results", study.path)[0] == 0
    found = json.loads((study.path / "report.json").read_text())
    assert found["raters"]["counted"] == [1, 2, 3]
    best, plain = (found["methods"][name]["better"] for name in ("best-of", "plain"))
    assert best["answers"]["rate"] == pytest.approx(2 / 3)
    assert plain["answers"]["rate"] == pytest.approx(1 / 3)
    assert (best["majority"]["rate"], plain["majority"]["rate"]) == (1.0, 0.0)
    report = open_context(browser).new_page()
    report.goto((study.path / "report.html").as_uri())
    expect(report.get_by_role("heading", name="Results of a blind study")).to_be_visible()
    assert find_barriers(report) == []
    shoot(report, "study-report")
