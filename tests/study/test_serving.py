"""The raters' pages: blind, readable without scripts, and no way in for anyone else."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from chainrule.errors import UserError
from chainrule.study import Asked, Shown, StudyFolder, assign, create_study
from chainrule.study.protocols import EditSuccess, Free, SameThing
from chainrule.study.serve import MOST_BYTES, make_app
from studies import LABELS, PROMPT, draw, make_study, owners, write_run


class Visitor:
    """A browser without scripts."""

    def __init__(self, folder: StudyFolder, hosts: tuple[str, ...] = (), address: str = "http://localhost") -> None:  # fmt: skip
        self.folder = folder
        self.tokens = folder.answers.make_tokens(3)
        self.client = TestClient(make_app(folder, hosts), base_url=address)

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, **more)

    def page(self, rater: int = 1, query: str = "") -> str:
        found = self.get(f"/r/{self.tokens[rater - 1]}{query}")
        assert found.status_code == 200
        return str(found.text)

    def answer(self, choice: str, rater: int = 1, page: str | None = None) -> str:
        """Answer what a page asks; the page after that."""
        page = self.page(rater) if page is None else page
        found = self.client.post(
            f"/r/{self.tokens[rater - 1]}", data={"question": name_of(page), "choice": choice}
        )
        assert found.status_code == 200, found.text
        return str(found.text)


def name_of(page: str) -> str:
    return re.findall(r'name="question" value="(\w+)"', page)[0]


def pictures_of(page: str) -> list[str]:
    return re.findall(r'<img src="[\w-]+/(\w+)\.png"', page)


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


@pytest.fixture
def visitor(tmp_path: Path) -> Visitor:
    return Visitor(make_study(tmp_path, seeds=(0, 1)))


def test_a_rater_is_led_through_all_questions(visitor: Visitor) -> None:
    study = visitor.folder.study
    page = visitor.page()
    for place, shown in enumerate(assign(study, 1), 1):
        assert f"Question {place} of 8" in text_of(page)
        assert name_of(page) == shown.question.name
        assert tuple(pictures_of(page)) == shown.pictures
        page = visitor.answer("both", page=page)
    assert "All questions are answered" in page
    assert "All questions are answered" in visitor.page()
    kept = visitor.folder.answers.read_last()
    assert [(a.rater, a.question, a.choice, a.shown) for a in kept] == (
        [(1, each.question.name, "both", each.pictures) for each in assign(study, 1)]
    )
    assert "Question 1 of 8" in visitor.page(2)


def test_nothing_on_a_page_says_whose_a_picture_is(visitor: Visitor) -> None:
    """Two questions of which the methods differ have pages that differ in random names only."""
    study, plain = visitor.folder.study, set()
    for rater in (1, 2, 3):
        for shown in assign(study, rater):
            found = visitor.get(f"/r/{visitor.tokens[rater - 1]}")
            said = f"{found.text} {found.headers}"
            assert not any(label in said for label in LABELS)
            for name in shown.pictures:
                sent = visitor.get(f"/r/{visitor.tokens[rater - 1]}/{name}.png")
                assert sent.content == visitor.folder.find_picture(name).read_bytes()
                assert not {"last-modified", "etag", "content-disposition"} & set(sent.headers)
                assert not any(label.encode() in sent.content for label in LABELS)
            if not shown.question.check:
                text = re.sub(
                    r"\b[0-9a-f]{16}\b|Question \d+|value=\"\d+\"|\?at=\d+", "", found.text
                )
                text = text.replace(visitor.tokens[rater - 1], "")
                plain.add(re.sub(r"<p><a .*?</p>\n", "", text))
            visitor.answer("neither", rater)
    assert len(plain) == 1


def test_a_page_needs_no_script_and_can_be_used_by_all(visitor: Visitor) -> None:
    found = visitor.get(f"/r/{visitor.tokens[0]}")
    page = found.text
    assert "<script" not in page
    assert 'lang="en"' in page
    assert "width=device-width" in page
    assert page.count("<h1>") == 1
    assert "<legend>" in page
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == 2
    buttons = re.findall(r'<button name="choice" value="(\w+)">([^<]+)<', page)
    assert [value for value, _ in buttons] == ["first", "second", "both", "neither"]
    assert all(text.strip() for _, text in buttons)
    assert PROMPT in text_of(page)
    assert found.headers["cache-control"] == "no-store"
    assert found.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in found.headers["content-security-policy"]


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it."""

    def luminance(colour: str) -> float:
        digits = colour if len(colour) == 6 else "".join(2 * c for c in colour)
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("text", "ground"), [
    ("1a1a1a", "f4f4f4"), ("fff", "1f5fa8"), ("1f5fa8", "fff"), ("fff", "174a84"), ("174a84", "f4f4f4"),
])  # fmt: skip
def test_words_can_be_read(text: str, ground: str, visitor: Visitor) -> None:
    page = visitor.page()
    assert f"#{text}" in page
    assert f"#{ground}" in page
    assert contrast(text, ground) >= 4.5


def test_an_answer_can_be_changed(visitor: Visitor) -> None:
    first = visitor.page()
    visitor.answer("first")
    visitor.answer("both")
    back = visitor.page(query="?at=1")
    assert name_of(back) == name_of(first)
    assert re.search(r'value="first" class="chosen" aria-pressed="true"', back)
    after = visitor.answer("second", page=back)
    assert "Question 3 of 8" in after
    assert {a.question: a.choice for a in visitor.folder.answers.read_last()}[
        name_of(first)
    ] == "second"
    assert len(visitor.folder.answers.read_all()) == 3
    # nobody looks ahead
    for query in ("?at=7", "?at=0", "?at=-1", "?at=x", "?at=", "?at=99999999999999999999", "?at=²"):
        assert "Question 3 of 8" in visitor.page(query=query)


def test_an_answer_given_twice_is_one(visitor: Visitor) -> None:
    page = visitor.page()
    for _ in range(2):  # two clicks, or the page loaded again
        assert "Question 2 of 8" in visitor.answer("first", page=page)
    assert len(visitor.folder.answers.read_last()) == 1


def test_only_pictures_that_were_reached_are_sent(visitor: Visitor) -> None:
    shown, token = assign(visitor.folder.study, 1), visitor.tokens[0]
    reached = set(shown[0].pictures)
    for picture in visitor.folder.study.pictures:
        status = visitor.get(f"/r/{token}/{picture.name}.png").status_code
        assert status == (200 if picture.name in reached else 404)


@pytest.mark.parametrize("path", [
    "/r/TOKEN/../../study.json", "/r/TOKEN/..%2f..%2fstudy.json", "/r/TOKEN/..%2f..%2fstudy.json.png",
    "/r/TOKEN/%2e%2e/%2e%2e/answers.db", "/r/TOKEN/..%5c..%5canswers.db.png", "/r/TOKEN/study.json",
    "/r/TOKEN//etc/passwd.png", "/r/TOKEN/%00.png", "/r/TOKEN/None.png", "/pictures/NAME.png", "/study.json",
    "/answers.db", "/", "/r", "/r/", "/r/x", "/r/%00", "/r/..", "/r/' OR 1=1", "/docs", "/openapi.json",
    "/r/x/NAME.png", "/r/TOKENx/NAME.png",
])  # fmt: skip
def test_there_is_nothing_else(path: str, visitor: Visitor) -> None:
    name = assign(visitor.folder.study, 1)[0].pictures[0]
    found = visitor.get(path.replace("TOKEN", visitor.tokens[0]).replace("NAME", name))
    assert found.status_code == 404
    assert text_of(found.text) == (
        "Not found Not found This link leads to no study: ask whoever sent it for another."
    )


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "a b"]
)
def test_a_foreign_host_is_refused(host: str, visitor: Visitor) -> None:
    """A page elsewhere, whose name was made to lead here, gets nothing."""
    path = f"/r/{visitor.tokens[0]}"
    assert visitor.get(path, headers={"host": host}).status_code == 400
    sent = visitor.client.post(
        path, data={"question": "x", "choice": "both"}, headers={"host": host}
    )
    assert sent.status_code == 400
    assert visitor.folder.answers.read_all() == []


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:7870", "127.0.0.1:7870", "[::1]:7870", "study.example.org:80"]
)
def test_a_known_host_is_served(host: str, tmp_path: Path) -> None:
    visitor = Visitor(make_study(tmp_path, seeds=(0,)), ("study.example.org",))
    assert visitor.get(f"/r/{visitor.tokens[0]}", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("name", ["*", "*.example.org", "", "http://a", "a b"])
def test_a_pattern_of_hosts_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the name of a host"):
        make_app(make_study(tmp_path, seeds=(0,)), [name])


def test_what_is_no_answer_is_refused(visitor: Visitor) -> None:
    path, shown = f"/r/{visitor.tokens[0]}", assign(visitor.folder.study, 1)
    name = shown[0].question.name
    bad: list[dict[str, Any]] = [
        {}, {"question": name}, {"choice": "both"}, {"question": name, "choice": "third"},
        {"question": "x", "choice": "both"}, {"question": shown[3].question.name, "choice": "both"},
    ]  # fmt: skip
    for data in bad:
        assert visitor.client.post(path, data=data).status_code == 400
    assert visitor.client.post(path, content=b"\xff\xfe=&&;").status_code == 400
    long = {"question": name, "choice": "x" * MOST_BYTES}
    assert visitor.client.post(path, data=long).status_code == 413
    assert visitor.client.post("/r/x", data={"question": name, "choice": "both"}).status_code == 404
    assert visitor.client.put(path).status_code == 405
    assert visitor.folder.answers.read_all() == []


def test_words_of_a_study_are_no_html(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    run = write_run(tmp_path / "run", (0,), inputs={"prompt": evil})
    protocol = Free(question=f"Is it {evil}?", answers=(evil, '" onclick="x'))
    visitor = Visitor(create_study(tmp_path / "study", [run], Asked(protocol=protocol, checks=0)))
    page = visitor.page()
    assert "<script" not in page
    assert '" onclick' not in page
    assert page.count("&lt;script&gt;") == 4
    visitor.answer('" onclick="x', page=page)
    assert [a.choice for a in visitor.folder.answers.read_all()] == ['" onclick="x']


@pytest.mark.parametrize(
    ("protocol", "caption"), [(EditSuccess(), "The original"), (SameThing(), "The thing")]
)
def test_what_is_beside_is_shown(protocol: Any, caption: str, tmp_path: Path) -> None:
    thing = draw(tmp_path / "thing.png", 5)
    run = write_run(tmp_path / "run", (0,), inputs={"photo": thing, "pictures": (thing,)})
    visitor = Visitor(create_study(tmp_path / "study", [run], Asked(protocol=protocol)))
    page = visitor.page()
    beside, picture = pictures_of(page)
    assert f'alt="{caption}"' in page
    (shown, *_) = assign(visitor.folder.study, 1)
    assert (beside, (picture,)) == (shown.question.beside, shown.pictures)
    assert visitor.get(f"/r/{visitor.tokens[0]}/{beside}.png").status_code == 200
    assert (PROMPT in text_of(page)) == protocol.show_prompt


def test_a_check_says_what_to_answer_and_looks_like_the_others(tmp_path: Path) -> None:
    made = make_study(tmp_path, seeds=(0,), checks=2)
    visitor, said = Visitor(made), []
    for shown in assign(made.study, 1):
        page = visitor.page()
        said.append((shown, text_of(page)))
        visitor.answer("both", page=page)

    def find(kind: str | None) -> tuple[Shown, str]:
        return next(each for each in said if each[0].question.check == kind)

    shown, text = find("asked")
    wanted = {"both": "Both equally well", "neither": "Neither"}[shown.question.right[0]]
    assert f"Please choose “{wanted}” here." in text
    shown, text = find("noise")
    assert "noise" in owners(made.study, shown)
    assert "Which picture shows better what is described?" in text
    assert "check" not in text


def test_it_can_be_mounted_in_another_application(tmp_path: Path) -> None:
    folder = make_study(tmp_path, seeds=(0,))
    (token,) = folder.answers.make_tokens(1)
    whole = Starlette(routes=[Mount("/study", make_app(folder))])
    client = TestClient(whole, base_url="http://localhost")
    page = client.get(f"/study/r/{token}").text
    (name, *_) = pictures_of(page)
    assert client.get(f"/study/r/{token}/{name}.png").status_code == 200
    sent = client.post(f"/study/r/{token}", data={"question": name_of(page), "choice": "both"})
    assert sent.status_code == 200
    assert "Question 2 of" in sent.text


def test_without_its_library_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(UserError, match=r'starlette and uvicorn: pip install "chainrule\[study\]"'):
        make_app(make_study(tmp_path, seeds=(0,)))
