"""The page Tune: pictures in, a word or a LoRA out. Importing this file imports Gradio."""

from __future__ import annotations

from typing import Any

import gradio as gr

from chainrule.methods.registry import METHODS
from chainrule.runs.usual import choose_tuning
from chainrule.studio.parts import PICTURE_TYPES, Form, Page, Session, make_form


def list_learning() -> list[str]:
    """The methods that learn."""
    return [kind for kind, method in METHODS.known.items() if method.trains]


def make_tune(session: Session) -> Form:
    """The page's fields."""
    pictures = gr.File(
        label="Pictures to learn from", file_types=PICTURE_TYPES, file_count="multiple",
        height=140, elem_id="pictures",
    )  # fmt: skip
    prompt = gr.Textbox(
        "a photo of {}", label="Prompts to show it in", lines=2,
        info="{} is the thing that is learnt; one in each line.",
    )  # fmt: skip
    first = choose_tuning(None)[0].partition(":")[0]
    page = Page("tune", list_learning(), [first], learns=True)
    return make_form(session, page, {"pictures": pictures, "prompt": prompt}, _finish)


def _finish(values: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a training: its pictures, and each line as a prompt."""
    lines = [line.strip() for line in (values["prompt"] or "").splitlines() if line.strip()]
    return {"pictures": tuple(values["pictures"] or ()), "prompt": tuple(lines)}
