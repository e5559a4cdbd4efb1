"""The gallery lists what is there, reads each spec once, and serves nothing but what it lists."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from chainrule import UserError
from chainrule.runs import execute, parse_spec
from chainrule.studio.again import list_results, make_again, open_run, vary
from chainrule.studio.desk import THUMBS, Desk
from chainrule.studio.listing import (
    PAGE,
    Listing,
    list_artefacts,
    list_files,
    list_pictures,
    read_report,
    zip_run,
)
from chainrule.studio.views import show_gallery, show_whole
from command import contents


def write_run(folder: Path, prompt: str = "a red circle", **changes: object) -> Path:
    spec = {
        "inputs": {"prompt": prompt, "seed": (3, 5)},
        "losses": [{"kind": "brightness", "target": 0.9, "weight": 0.5}],
        "methods": [{"kind": "plain", "steps": 2}, {"kind": "best-of", "steps": 2, "count": 2}],
        **changes,
    }
    for _ in execute(parse_spec(spec), folder):
        pass
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def listing(tmp_path: Path, made: Path) -> Iterator[Listing]:
    desk = Desk(tmp_path / "runs")
    shutil.copytree(made, desk.folder / "20261127-101010-A_red.circle")
    yield Listing(desk)
    desk.close()


NAME = "20261127-101010-A_red.circle"


def test_runs_of_the_terminal_are_listed_too(listing: Listing) -> None:
    (listing.desk.folder / "empty").mkdir()
    (listing.desk.folder / "torn").mkdir()
    (listing.desk.folder / "torn" / "spec.json").write_text("{")
    (listing.desk.folder / "link").symlink_to(listing.desk.folder / NAME)
    (card,) = listing.list_cards()
    assert (card.name, card.prompt, card.status) == (NAME, "a red circle", "done")
    assert card.methods == ("plain", "best-of")
    assert card.losses == ("brightness=0.9",)


@pytest.mark.parametrize(
    ("words", "found"),
    [("", 1), ("red CIRCLE", 1), ("best-of", 1), ("brightness", 1), ("done", 1), ("2026", 1),
     ("doodl", 0), ("red square", 0)],
)  # fmt: skip
def test_runs_are_found_by_words(listing: Listing, words: str, found: int) -> None:
    assert len(listing.list_cards(words)) == found


def test_a_thousand_runs_are_read_once(listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (listing.desk.folder / NAME / "spec.json").read_text()
    for number in range(1000):
        folder = listing.desk.folder / f"run-{number}"
        folder.mkdir()
        (folder / "spec.json").write_text(text)
    read: list[str] = []
    load = json.load
    monkeypatch.setattr(json, "load", lambda file: read.append(file.name) or load(file))
    cards = listing.list_cards()
    assert len(cards) == len(read) == 1001
    listing.list_cards("red")
    assert len(read) == 1001  # the second time, none of them
    page = show_gallery(cards[:PAGE])
    assert page.count("<button") == PAGE
    assert not listing.desk.side(THUMBS).exists()  # thumbnails are made when they are asked for


def test_a_thumbnail_is_made_once_and_again_when_the_picture_changes(listing: Listing) -> None:
    first = listing.find_thumb(NAME)
    when = first.stat().st_mtime_ns
    assert listing.find_thumb(NAME) == first
    assert first.stat().st_mtime_ns == when
    with Image.open(first) as picture:
        assert max(picture.size) <= 320
    source = list_pictures(listing.desk.path(NAME))[0]
    Image.new("RGB", (16, 16), "blue").save(source)
    other = listing.find_thumb(NAME)
    assert other != first
    assert not first.exists()
    with Image.open(other) as picture:
        assert picture.getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    "file",
    ["../../etc/passwd", "/etc/passwd", "images/../spec.json", ".hidden", "", "images", "none.png",
     "link.png", "images/link.png", "spec.json\0"],
)  # fmt: skip
def test_what_is_not_listed_is_not_there(listing: Listing, tmp_path: Path, file: str) -> None:
    folder = listing.desk.folder / NAME
    (tmp_path / "secret.png").write_text("secret")
    (folder / ".hidden").write_text("hidden")
    for link in ("link.png", "images/link.png"):
        (folder / link).symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="has no file"):
        listing.find_file(NAME, file)
    names = {each.name for each in list_files(folder)}
    assert "spec.json" in names
    assert not names & {".hidden", "link.png"}


def test_a_zip_has_all_of_a_run_and_nothing_else(listing: Listing, tmp_path: Path) -> None:
    folder = listing.desk.folder / NAME
    (tmp_path / "secret").write_text("secret")
    (folder / "secret").symlink_to(tmp_path / "secret")
    with zipfile.ZipFile(io.BytesIO(b"".join(zip_run(folder)))) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "out")
    (folder / "secret").unlink()
    assert contents(tmp_path / "out" / NAME) == contents(folder)


def test_what_is_a_run_s_own_is_escaped(listing: Listing) -> None:
    evil = '"><script>alert(1)</script>'
    path = listing.desk.folder / "evil"
    shutil.copytree(listing.desk.folder / NAME, path)
    spec = json.loads((path / "spec.json").read_text())
    spec["inputs"]["prompt"] = [evil]
    spec["methods"][0]["kind"] = evil
    (path / "spec.json").write_text(json.dumps(spec))
    report = {"methods": {evil: {"losses": [1.0], "seconds": 1, "passes": evil}}}
    html = show_gallery(listing.list_cards()) + show_whole(
        "evil", path, list_pictures(path), list_artefacts(path), report
    )
    assert "<script" not in html
    assert "&lt;script" in html


@pytest.mark.parametrize("broken", ["[]", "{", '{"methods": null}', '"x"'])
def test_a_report_of_anything_is_shown(listing: Listing, broken: str) -> None:
    path = listing.desk.folder / NAME
    (path / "report.json").write_text(broken)
    assert "<table" not in show_whole(NAME, path, [], [], read_report(path))


def test_a_run_is_made_again_as_it_was(listing: Listing, tmp_path: Path) -> None:
    for _ in execute(make_again(listing.desk, NAME), tmp_path / "again"):
        pass
    mine, whole = (contents(path) for path in (tmp_path / "again", listing.desk.path(NAME)))
    assert mine == whole


def test_variations_are_near_and_at_no_distance_the_same(listing: Listing, tmp_path: Path) -> None:
    assert list_results(listing.desk, NAME) == [
        ("plain", 3), ("plain", 5), ("best-of", 3), ("best-of", 5)
    ]  # fmt: skip
    pixels = {}
    for apart in (0.0, 0.2):
        spec = vary(listing.desk, NAME, "best-of", 5, apart)
        folder = tmp_path / f"varied-{apart}"
        for _ in execute(spec, folder):
            pass
        assert not spec.losses
        pixels[apart] = [
            Image.open(each).tobytes() for each in sorted((folder / "images").iterdir())
        ]
    (original,) = (listing.desk.path(NAME) / "images").glob("best-of-0005.png")
    assert set(pixels[0.0]) == {Image.open(original).tobytes()}
    assert len(set(pixels[0.2])) == 4
    with pytest.raises(UserError, match="no such result"):
        vary(listing.desk, NAME, "best-of", 4, 0.2)


def test_a_run_opens_as_it_was_filled_in(listing: Listing) -> None:
    found = open_run(listing.desk, NAME)
    assert (found.page, found.inputs["prompt"]) == ("create", "a red circle")
    assert found.methods == ("plain", "best-of")
    assert found.losses == (("brightness", "0.9", [], "0.5"),)
    assert found.values["best-of"]["count"] == 2
    assert found.more["seed"] == "3,5"
