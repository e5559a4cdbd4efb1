"""The page Runs: all run folders, one of them whole, two beside each other. It imports Gradio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from chainrule.errors import UserError
from chainrule.studio.again import Opened, list_results, make_again, open_run, vary
from chainrule.studio.asking import name_run
from chainrule.studio.listing import (
    PAGE,
    Listing,
    list_artefacts,
    list_pictures,
    read_report,
)
from chainrule.studio.parts import Form, Session, explained
from chainrule.studio.views import show_comparison, show_gallery, show_whole

CLICK = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-run]');
  if (button) trigger('click', {run: button.dataset.run});
});
"""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass
class Shelf:
    """The page's components."""

    words: gr.Textbox
    back: gr.Button
    on: gr.Button
    where: gr.Markdown
    gallery: gr.HTML
    whole: gr.HTML
    detail: gr.Column
    again: gr.Button
    opens: gr.Button
    result: gr.Dropdown
    apart: gr.Slider
    varies: gr.Button
    said: gr.Markdown
    settings: gr.Code
    left: gr.Dropdown
    right: gr.Dropdown
    compared: gr.HTML
    page: gr.State
    chosen: gr.State


def make_runs(
    session: Session, listing: Listing, forms: Mapping[str, Form], tabs: gr.Tabs
) -> tuple[Any, ...]:
    """The page.

    Args:
        session: What the pages share.
        listing: The runs.
        forms: Those in which a run is opened, by their pages' names.
        tabs: Of all pages.

    Returns:
        What fills the gallery, the components it is given, and those it fills.
    """
    shelf = _lay_out()

    def fill(words: str, page: int, chosen: list[str]) -> list[Any]:
        return _fill(listing, words, page, chosen)

    given = [shelf.words, shelf.page, shelf.chosen]
    filled = [shelf.gallery, shelf.where, shelf.back, shelf.on, shelf.page]
    shelf.words.change(lambda words, chosen: fill(words, 0, chosen),
                       [shelf.words, shelf.chosen], filled, **QUIET)  # fmt: skip
    for button, step in ((shelf.back, -1), (shelf.on, 1)):
        button.click(
            lambda words, page, chosen, step=step: fill(words, page + step, chosen),
            given, filled, **QUIET,
        )  # fmt: skip
    shown = [
        shelf.chosen, shelf.gallery, shelf.detail, shelf.whole, shelf.settings, shelf.result,
        shelf.left, shelf.right, shelf.compared, shelf.said,
    ]  # fmt: skip

    def choose(words: str, page: int, chosen: list[str], event: gr.EventData) -> list[Any]:
        name = str((event._data or {}).get("run", ""))
        try:
            return _choose(listing, words, page, chosen, name)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    shelf.gallery.click(choose, given, shown, **QUIET)
    for side in (shelf.left, shelf.right):
        side.input(
            explained(lambda one, other: _compare(listing, one, other)),
            [shelf.left, shelf.right], [shelf.compared], **QUIET,
        )  # fmt: skip
    _offer_more(session, shelf, forms, tabs)
    return fill, given, filled


def _lay_out() -> Shelf:
    """The components, in their places."""
    words = gr.Textbox(
        "", label="Find", info="In names, prompts, methods, losses and states.", elem_id="runs-find"
    )
    gallery = gr.HTML(show_gallery([]), js_on_load=CLICK, elem_id="runs-gallery")
    with gr.Row():
        back = gr.Button("Newer runs", elem_id="runs-back", min_width=120, interactive=False)
        on = gr.Button("Older runs", elem_id="runs-on", min_width=120, interactive=False)
    where = gr.Markdown("", elem_id="runs-where")
    with gr.Column(visible=False, elem_id="runs-detail") as detail:
        whole = gr.HTML("", js_on_load=None, elem_id="runs-whole")
        with gr.Row():
            again = gr.Button("Make again", elem_id="runs-again", min_width=140)
            opens = gr.Button("Open settings in a form", elem_id="runs-open", min_width=140)
        with gr.Row():
            result = gr.Dropdown([], label="Result", info="Of which variations are drawn.")
            apart = gr.Slider(
                0, 1, value=0.3, step=0.05, label="How far apart", info="0: the same; 1: any other."
            )
        varies = gr.Button("Draw variations", elem_id="runs-vary", min_width=140)
        said = gr.Markdown("", elem_id="runs-said")
        gr.Markdown("### Compare\nThe pictures of this run, and of the one that you chose before.")
        with gr.Row():
            left = gr.Dropdown([], label="Left picture", elem_id="runs-left")
            right = gr.Dropdown([], label="Right picture", elem_id="runs-right")
        compared = gr.HTML("", js_on_load=None, elem_id="runs-compare")
        with gr.Accordion("Settings", open=False):
            settings = gr.Code("", language="json", label="spec.json", interactive=False)
    return Shelf(
        words, back, on, where, gallery, whole, detail, again, opens, result, apart, varies, said,
        settings, left, right, compared, gr.State(0), gr.State([]),
    )  # fmt: skip


def _fill(listing: Listing, words: str, page: int, chosen: list[str]) -> list[Any]:
    """A page of the gallery, and what is around it."""
    cards = listing.list_cards(words or "")
    pages = max(1, math.ceil(len(cards) / PAGE))
    page = min(max(page, 0), pages - 1)
    mine = cards[page * PAGE : (page + 1) * PAGE]
    runs = "1 run" if len(cards) == 1 else f"{len(cards)} runs"
    return [
        show_gallery(mine, chosen[:1]),
        f"{runs}, page {page + 1} of {pages}",
        gr.update(interactive=page > 0),
        gr.update(interactive=page < pages - 1),
        page,
    ]


def _choose(listing: Listing, words: str, page: int, chosen: list[str], name: str) -> list[Any]:
    """All of a run, and its pictures beside those of the one that was looked at before."""
    path = listing.desk.path(name)
    before = [each for each in chosen if each != name][:1]
    pictures = list_pictures(path)
    choices = [choice for each in (name, *before) for choice in _list_choices(listing, each)]
    left, right = _choose_pair([value for _, value in choices], len(pictures))
    try:
        results = [f"{label}, seed {seed}" for label, seed in list_results(listing.desk, name)]
    except UserError:
        results = []
    text = (path / "spec.json").read_text(encoding="utf-8")
    return [
        [name, *before],
        _fill(listing, words, page, [name])[0],
        gr.update(visible=True),
        show_whole(name, path, pictures, list_artefacts(path), read_report(path)),
        text,
        gr.update(choices=results, value=results[-1] if results else None),
        gr.update(choices=choices, value=left),
        gr.update(choices=choices, value=right),
        _compare(listing, left, right),
        "",
    ]


def _list_choices(listing: Listing, name: str) -> list[tuple[str, str]]:
    """The pictures of a run, as they are called and as they are known."""
    path = listing.desk.path(name)
    inside = [each.relative_to(path).as_posix() for each in list_pictures(path)]
    return [(f"{Path(each).stem} of {name}", f"{name}: {each}") for each in inside]


def _choose_pair(choices: list[str], mine: int) -> tuple[str | None, str | None]:
    """Two pictures to begin with: this run's first beside the other's, else beside its plain one.

    Args:
        choices: This run's pictures, then the other's.
        mine: How many are this run's.
    """
    if not mine:
        return None, None
    if len(choices) > mine:
        return choices[mine], choices[0]
    seed = choices[0].rpartition("-")[2]
    plain = [each for each in choices if each.endswith(f"/plain-{seed}")]
    return next(iter([*plain, *choices[1:], *choices])), choices[0]


def _compare(listing: Listing, left: str | None, right: str | None) -> str:
    """Two pictures beside each other, if both are chosen."""
    if not left or not right:
        return ""
    pair = []
    for choice in (left, right):
        name, _, file = choice.partition(": ")
        listing.find_file(name, file)
        pair.append((name, file))
    return show_comparison(*pair)


def _offer_more(session: Session, shelf: Shelf, forms: Mapping[str, Form], tabs: gr.Tabs) -> None:
    """What can be made of a run that was chosen."""
    desk = session.desk

    def add(tokens: Mapping[str, str] | None, spec: Any) -> list[Any]:
        name, token = desk.add(spec, name_run(spec))
        return [{**(tokens or {}), name: token}, name, f"{name} waits for its turn."]

    def again(tokens: Any, chosen: list[str]) -> list[Any]:
        return add(tokens, make_again(desk, _first(chosen)))

    def varied(tokens: Any, chosen: list[str], result: str | None, apart: float) -> list[Any]:
        label, _, seed = (result or "").rpartition(", seed ")
        if not seed.isdecimal():
            raise UserError("no result was chosen", "choose one that was made of noise", "result")
        return add(tokens, vary(desk, _first(chosen), label, int(seed), apart))

    outputs = [session.tokens, session.chosen, shelf.said]
    shelf.again.click(explained(again), [session.tokens, shelf.chosen], outputs, **QUIET)
    given = [session.tokens, shelf.chosen, shelf.result, shelf.apart]
    shelf.varies.click(explained(varied), given, outputs, **QUIET)
    shelf.opens.click(
        explained(lambda chosen: _open(forms, open_run(desk, _first(chosen)))),
        [shelf.chosen],
        [tabs, *(field for form in forms.values() for field in form.opened)],
        **QUIET,
    )


def _open(forms: Mapping[str, Form], found: Opened) -> list[Any]:
    """What fills in the page's form, and leaves the others as they are."""
    filled: list[Any] = []
    for page, form in forms.items():
        skipped = [gr.skip()] * len(form.opened)
        filled += form.fill(found) if page == found.page else skipped
    return [gr.update(selected=found.page), *filled]


def _first(chosen: list[str]) -> str:
    if not chosen:
        raise UserError("no run was chosen", "choose one of the gallery", "run")
    return Path(chosen[0]).name
