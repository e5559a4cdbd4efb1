"""The studio in a real browser: Chromium, told what a person would do, against the bundled model.

    CHAINRULE_SCREENSHOTS=docs/images python -m pytest -m browser

writes pictures of the pages, studio-*.png (and study-*.png).
"""

from __future__ import annotations

import json
import re
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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
from chainrule.runs.origin import read_origin
from chainrule.scenes.base import Scene, Thing, render
from command import images

pytestmark = in_a_browser
if not MISSING:
    from playwright.sync_api import expect


class Studio(Server):
    """`chainrule studio` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        super().__init__("studio", "--folder", str(folder), "--no-browser", *options)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    made = Studio(tmp_path_factory.mktemp("studio") / "runs")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_browser() as started:
        yield started


def open_page(browser: Any, server: Studio, width: int = 1280) -> Any:
    """A page of somebody's own browser."""
    page = open_context(browser, width).new_page()
    page.goto(server.address)
    page.wait_for_selector("#create-start")
    expect(page.get_by_text("Settings of hybrid").first).to_be_visible(timeout=PATIENCE)
    return page


@pytest.fixture
def page(browser: Any, server: Studio) -> Iterator[Any]:
    made = open_page(browser, server)
    yield made
    made.context.close()


def go(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def field(page: Any, label: str) -> Any:
    """The field that is seen, and is called so; what it is follows in its label."""
    return page.get_by_label(re.compile(rf"^\s*{label}\b")).locator("visible=true").last


def choose(page: Any, *names: str) -> None:
    """Choose these methods and no other."""
    box = field(page, "Methods")
    for _ in range(4):
        box.press("Backspace")
    for name in names:
        box.fill(name)
        page.get_by_role("option", name=name, exact=True).click()
    box.press("Escape")


def fill(page: Any, form: str, **values: str) -> None:
    """Fill in settings of a method's form."""
    opened = page.get_by_role("button", name=f"Settings of {form}").locator("visible=true")
    opened.click()
    for label, value in values.items():
        field(page, label).fill(value)
    opened.click()  # and closed again


def begin_long_run(page: Any, iterations: int = 60) -> str:
    """A run that takes a while, of plain images and DOODL's; its name."""
    choose(page, "plain", "doodl")
    page.get_by_text("Settings of doodl").wait_for()
    fill(page, "doodl", iterations=str(iterations), steps="4")
    field(page, "Seeds").fill("1")
    page.click("#create-start")
    said = page.locator("#create-said", has_text="waits for its turn")
    said.wait_for()
    return said.inner_text().split()[0]


def wait_for_status(page: Any, status: str) -> None:
    page.wait_for_selector(f"#watch-panel .status.{status}")


def test_a_run_is_begun_watched_stopped_gone_on_with_and_found_again(
    page: Any, server: Studio
) -> None:
    name = begin_long_run(page)
    wait_for_status(page, "running")
    page.wait_for_selector("#watch-panel .pair img")
    page.wait_for_selector("#watch-panel .gauges meter")
    page.wait_for_selector("#watch-panel .way")
    shoot(page, "studio-create")
    page.reload()
    expect(page.locator("#watch-panel .name")).to_have_text(name, timeout=PATIENCE)
    wait_for_status(page, "running")
    page.click("#watch-stop")
    wait_for_status(page, "stopped")
    kept = images(server.folder / name)
    assert list(kept) == ["doodl-0001.png", "plain-0001.png"]
    page.click("#watch-continue")
    wait_for_status(page, "running")
    page.click("#watch-stop")
    wait_for_status(page, "stopped")


def test_what_cannot_be_is_said_in_a_sentence(page: Any, server: Studio) -> None:
    before = sorted(server.folder.iterdir())
    field(page, "Seeds").fill("many")
    page.click("#create-start")
    page.get_by_text("is not a list of seeds").or_(page.get_by_text("seed")).first.wait_for()
    page.locator(".toast-body.error").wait_for()
    assert sorted(server.folder.iterdir()) == before


def test_what_a_run_would_take_is_told_before(page: Any) -> None:
    page.click("#create-estimate")
    page.locator("#create-said", has_text="of memory at its most").wait_for()


def test_a_photo_is_edited_where_it_is_painted(page: Any, server: Studio, tmp_path: Path) -> None:
    go(page, "Edit")
    photo = tmp_path / "photo.png"
    scene = render(Scene((Thing("circle", "red", 32, 32, 20),), "white"))
    scene.resize((256, 256), Image.Resampling.BICUBIC).save(photo)
    page.set_input_files("#photo input[type=file]", str(photo))
    canvas = page.locator("#mask canvas").first
    canvas.wait_for()
    page.wait_for_timeout(1500)  # until the editor has drawn the photo, it takes no strokes
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    for step in range(9):
        page.mouse.move(x - 40 + 10 * step, y + 5 * (step % 2))
    page.mouse.up()
    field(page, "What it should show").fill("a blue circle on a white background")
    choose(page, "sdedit", "repaint")
    for method in ("sdedit", "repaint"):
        fill(page, method, steps="6")
    page.click("#edit-start")
    said = page.locator("#edit-said", has_text="waits for its turn")
    said.wait_for()
    name = said.inner_text().split()[0]
    expect(page.locator("#watch-panel .name")).to_have_text(name, timeout=PATIENCE)
    wait_for_status(page, "done")
    shoot(page, "studio-edit")
    spec = json.loads((server.folder / name / "spec.json").read_text())
    assert [method["kind"] for method in spec["methods"]] == ["sdedit", "repaint"]
    mask = Image.open(server.folder / name / spec["inputs"]["mask"])
    assert mask.size == (256, 256)
    levels = mask.convert("L").getcolors()
    assert {level for _, level in levels} == {0, 255}
    white = next(count for count, level in levels if level == 255)
    assert 100 < white < 0.5 * 256 * 256
    assert mask.convert("L").getpixel((128, 128)) == 255


def test_a_word_is_learnt_from_pictures(page: Any, server: Studio, tmp_path: Path) -> None:
    go(page, "Tune")
    files = []
    for ground in ("white", "gray"):
        files.append(str(tmp_path / f"{ground}.png"))
        render(Scene((Thing("heart", "pink", 32, 32, 20),), ground)).save(files[-1])
    page.set_input_files("#pictures input[type=file]", files)
    field(page, "Prompts to show it in").fill("{} on a white background")
    box = field(page, "Method")
    box.fill("textual-inversion")
    page.get_by_role("option", name="textual-inversion").click()
    page.get_by_text("Settings of textual-inversion").wait_for()
    fill(page, "textual-inversion", iterations="80", steps="3", word="<thing>")
    page.click("#tune-start")
    said = page.locator("#tune-said", has_text="waits for its turn")
    said.wait_for()
    name = said.inner_text().split()[0]
    expect(page.locator("#watch-panel .name")).to_have_text(name, timeout=PATIENCE)
    wait_for_status(page, "done")
    shoot(page, "studio-tune")
    assert (server.folder / name / "embedding.safetensors").is_file()
    assert list((server.folder / name / "previews").iterdir())
    go(page, "Runs")
    page.locator(f'[data-run="{name}"]').click()
    with page.expect_download() as download:
        page.get_by_role("link", name="embedding.safetensors").click()
    assert download.value.suggested_filename == f"{name}-embedding.safetensors"
    go(page, "Create")
    page.get_by_role("button", name="Checkpoint's details").locator("visible=true").click()
    field(page, "Words to be taught").click()
    page.get_by_role("option", name=f"of {name}").click()
    choose(page, "plain", "best-of")
    page.get_by_text("Settings of best-of").wait_for()
    field(page, "Prompt").fill("<thing> on a white background")
    page.click("#create-start")
    page.locator("#create-said", has_text="waits for its turn").wait_for()
    go(page, "Runs")  # which is brought up to date while it is looked at
    page.locator('[data-run="thing-on-a-white-background"]', has_text="done").wait_for()


def test_runs_are_found_compared_made_again_varied_and_taken_along(
    page: Any, server: Studio, tmp_path: Path
) -> None:
    choose(page, "plain", "best-of")
    page.get_by_text("Settings of best-of").wait_for()
    field(page, "Prompt").fill("a green star")
    field(page, "Seeds").fill("3")
    page.click("#create-start")
    expect(page.locator("#watch-panel .name")).to_have_text("a-green-star", timeout=PATIENCE)
    wait_for_status(page, "done")
    go(page, "Runs")
    field(page, "Find").fill("green best-of")
    expect(page.locator("#runs-where")).to_have_text(re.compile(r"\b1 run,"), timeout=PATIENCE)
    page.locator('[data-run="a-green-star"]').click()
    slider = page.get_by_label("Where the second picture begins")
    slider.wait_for()
    for _ in range(10):
        slider.press("ArrowRight")
    at = page.locator(".compare").evaluate("each => each.style.getPropertyValue('--at')")
    assert at == f"{slider.input_value()}%" != "50%"
    field(page, "Find").fill("")
    expect(page.locator("#runs-where")).not_to_have_text(re.compile(r"\b1 run,"), timeout=PATIENCE)
    shoot(page, "studio-runs")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download best-of-0003.png").click()
    picture = tmp_path / "taken.png"
    download.value.save_as(picture)
    assert read_origin(picture).label == "best-of"
    with page.expect_download() as download:
        page.get_by_role("link", name="the whole run").click()
    download.value.save_as(tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert archive.testzip() is None
        assert "a-green-star/spec.json" in archive.namelist()
    page.click("#runs-again")
    expect(page.locator("#watch-panel .name")).to_have_text("a-green-star-2", timeout=PATIENCE)
    wait_for_status(page, "done")
    assert images(server.folder / "a-green-star-2") == images(server.folder / "a-green-star")
    page.click("#runs-vary")
    expect(page.locator("#watch-panel .name")).to_have_text("a-green-star-3", timeout=PATIENCE)
    wait_for_status(page, "done")
    assert len(images(server.folder / "a-green-star-3")) == 4
    page.click("#runs-open")
    expect(field(page, "Prompt")).to_be_visible(timeout=PATIENCE)
    expect(field(page, "Seeds")).to_have_value("3", timeout=PATIENCE)
    page.get_by_text("Settings of best-of").wait_for()


def test_another_browser_sees_a_run_and_cannot_stop_it(browser: Any, tmp_path: Path) -> None:
    guarded = Studio(tmp_path / "runs", "--guarded")
    mine, other = (open_page(browser, guarded) for _ in range(2))
    name = begin_long_run(mine, 400)
    wait_for_status(mine, "running")
    other.reload()
    expect(other.locator("#watch-panel .name")).to_have_text(name, timeout=PATIENCE)
    other.click("#watch-stop")
    other.get_by_text("was begun by somebody else").wait_for()
    mine.wait_for_selector("#watch-panel .way")
    guarded.kill()  # and it goes on where it was, and is known by whoever began it
    done = (guarded.folder / name / "doodl.safetensors").stat().st_mtime_ns
    guarded.start()
    mine.goto(guarded.address)
    expect(mine.locator("#watch-panel .name")).to_have_text(name, timeout=PATIENCE)
    wait_for_status(mine, "running")
    mine.locator("#watch-panel .status", has_text="doodl, iteration").wait_for()
    mine.click("#watch-stop")
    wait_for_status(mine, "stopped")
    assert (guarded.folder / name / "doodl.safetensors").stat().st_mtime_ns > done
    assert guarded.stop() == 128 + signal.SIGTERM
    for each in (mine, other):
        each.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(browser: Any, server: Studio, scheme: str) -> None:
    page = open_page(browser, server)
    page.emulate_media(color_scheme=scheme)
    page.reload()
    page.wait_for_selector("#create-start")
    for name in ("Create", "Edit", "Tune", "Runs", "Study"):
        go(page, name)
        if name == "Runs":
            page.wait_for_selector(".gallery button")
            page.locator(".gallery button").first.click()
            page.wait_for_selector("#runs-whole .pictures img")
        page.wait_for_timeout(500)  # of what is faded in, colours are not yet its own
        grave = find_barriers(page)
        assert not grave, (name, grave)
    page.context.close()


def test_it_fits_a_telephone_and_asks_nobody_else(browser: Any, server: Studio) -> None:
    context = open_context(browser, 400)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda told: said.append((told.type, told.text)))
    page.goto(server.address)
    page.get_by_text("Settings of hybrid").first.wait_for(timeout=PATIENCE)
    for name in ("Create", "Edit", "Tune", "Runs", "Study"):
        go(page, name)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 400, name
        if name == "Create":
            shoot(page, "studio-narrow")
    own = (server.address, "data:", "blob:")
    assert [address for address in asked if not address.startswith(own)] == []
    assert [text for kind, text in said if kind == "error"] == []
    context.close()
