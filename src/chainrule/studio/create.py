"""The page Create: images of a prompt, guided by losses. Importing this file imports Gradio."""

from __future__ import annotations

import gradio as gr

from chainrule.methods.base import Needs
from chainrule.methods.registry import METHODS
from chainrule.runs.usual import choose_guiding
from chainrule.studio.parts import Form, Page, Session, make_form

EXAMPLE = "a red shape on a white background"


def list_drawing() -> list[str]:
    """The methods that draw images of a prompt, without a photo or pictures."""
    wanted = Needs.PHOTO | Needs.MASK | Needs.SOURCE | Needs.PICTURES
    return [
        kind
        for kind, method in METHODS.known.items()
        if not method.needs & wanted and not method.trains
    ]


def make_create(session: Session) -> Form:
    """The page's fields."""
    prompt = gr.Textbox(EXAMPLE, label="Prompt", info="What the images should show.", lines=2)
    page = Page("create", list_drawing(), choose_guiding(None), loss=("classifier", "heart"))
    return make_form(session, page, {"prompt": prompt}, lambda values: values)
