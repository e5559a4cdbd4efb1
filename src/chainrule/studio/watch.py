"""The panel that shows how a run goes, on every page. Importing this file imports Gradio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from chainrule.studio.desk import STRIPS, Desk, Entry
from chainrule.studio.parts import Session, explained
from chainrule.studio.strip import Shown
from chainrule.studio.views import NOTHING, show_queue, show_run

EVERY = 1.0
"""How often a page asks how its run goes, in seconds."""


def make_watch(session: Session) -> gr.Timer:
    """The panel, and the timer that keeps it up to date."""
    desk = session.desk
    which = gr.Dropdown(
        [], value=None, label="Run", info="Which one is shown below.", elem_id="watch-which"
    )
    with gr.Row():
        stop = gr.Button("Stop", elem_id="watch-stop", interactive=False)
        again = gr.Button("Continue", elem_id="watch-continue", interactive=False)
    panel = gr.HTML(NOTHING, elem_id="watch-panel", js_on_load=None)
    gr.Markdown("### Queue")
    queue = gr.HTML(show_queue([]), elem_id="watch-queue", js_on_load=None)
    seen = gr.State({})
    timer = gr.Timer(EVERY)
    outputs = [which, stop, again, panel, queue, seen, session.states]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def look(name: str | None, before: Mapping[str, Any]) -> list[Any]:
        return refresh(desk, name, before)

    timer.tick(look, [session.chosen, seen], outputs, concurrency_limit=8, **quiet)
    session.chosen.change(look, [session.chosen, seen], outputs, concurrency_limit=8, **quiet)
    which.input(lambda name: name, [which], [session.chosen], **quiet)
    stop.click(
        explained(lambda name, tokens: desk.stop(name, (tokens or {}).get(name, ""))),
        [session.chosen, session.tokens],
        **quiet,
    )
    again.click(
        explained(lambda name, tokens: desk.go_on(name, (tokens or {}).get(name, ""))),
        [session.chosen, session.tokens],
        **quiet,
    )
    return timer


def find_first(desk: Desk, tokens: Mapping[str, str] | None) -> str | None:
    """The run that a page shows when it is opened: the one at work, else this browser's last."""
    entries = desk.entries()
    at_work = [each.name for each in entries if each.status == "running"]
    own = [each.name for each in entries if each.name in (tokens or {})]
    return next(iter([*at_work, *own[::-1], *(each.name for each in entries[::-1])]), None)


def refresh(desk: Desk, name: str | None, before: Mapping[str, Any]) -> list[Any]:
    """What has changed since the page was last brought up to date.

    Args:
        desk: The runs.
        name: The run that is looked at.
        before: What the page shows.

    Returns:
        The choice of runs, the two buttons, the panel, the queue, what the page shows then, and
        what became of each run.
    """
    entries = desk.entries()
    entry = next((each for each in entries if each.name == name), None)
    now = {
        "names": [each.name for each in reversed(entries)],
        "name": None if entry is None else entry.name,
        "status": "" if entry is None else entry.status,
        "panel": NOTHING if entry is None else _show(desk, entry),
        "queue": show_queue(entries),
        "states": tuple((each.name, each.status) for each in entries),
    }
    changed = {key for key, value in now.items() if before.get(key) != value}
    if not changed:
        return [gr.skip()] * 7
    named = changed & {"names", "name"}
    states = changed & {"status", "name"}
    status = now["status"]
    return [
        gr.update(choices=now["names"], value=now["name"]) if named else gr.skip(),
        gr.update(interactive=status in ("running", "waiting")) if states else gr.skip(),
        gr.update(interactive=status in ("stopped", "failed")) if states else gr.skip(),
        now["panel"] if "panel" in changed else gr.skip(),
        now["queue"] if "queue" in changed else gr.skip(),
        now,
        now["states"] if "states" in changed else gr.skip(),
    ]


def _show(desk: Desk, entry: Entry) -> str:
    shown = Shown.read(desk.side(STRIPS) / entry.name)
    return show_run(entry, desk.watch(entry.name).now, shown)
