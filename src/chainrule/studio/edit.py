"""The page Edit: a photo, a mask that is painted on it, words. This file imports Gradio."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from chainrule.errors import UserError
from chainrule.images import on_white, read_picture, to_pil
from chainrule.methods.base import Needs
from chainrule.methods.registry import METHODS
from chainrule.runs.usual import choose_editing
from chainrule.studio.desk import UPLOADS, Desk
from chainrule.studio.parts import PICTURE_TYPES, Form, Page, Session, explained, make_form

PAINTED = 768
"""The longest side of the photo that is painted on, in pixels; the run has the photo itself."""


def list_editing() -> list[str]:
    """The methods that can edit a photo."""
    unfit = Needs.NOISE | Needs.PICTURES
    return [
        kind
        for kind, method in METHODS.known.items()
        if not method.needs & unfit and not method.trains
    ]


def make_edit(session: Session) -> Form:
    """The page's fields."""
    photo = gr.File(
        label="Photo", file_types=PICTURE_TYPES, file_count="single", height=110, elem_id="photo"
    )
    editor = gr.ImageEditor(
        label="Paint where it may change; nothing painted: everywhere",
        type="pil", sources=(), transforms=(), layers=False, format="png", height=420,
        brush=gr.Brush(default_size=24, colors=["#ff3d7f"], color_mode="fixed"),
        visible=False, elem_id="mask", buttons=[], interactive=True,
    )  # fmt: skip
    with gr.Row():
        source = gr.Textbox("", label="What it shows", info="Before; empty: not said.")
        prompt = gr.Textbox("", label="What it should show", info="After.")
    with gr.Accordion("Another kind of mask, and what stays", open=False), gr.Row():
        words = gr.Textbox(
            "", label="Mask from words", info="It may change where these words make a difference."
        )
        colour = gr.Textbox("", label="Mask from a colour", info="It may change where it is so.")
        exact = gr.Checkbox(
            False, label="Keep the photo's own pixels", info="Outside the mask, bit for bit."
        )
    photo.change(
        explained(_show_photo), [photo], [editor], show_progress="hidden", api_visibility="private"
    )
    inputs = {
        "photo": photo, "mask": editor, "source": source, "prompt": prompt, "mask_text": words,
        "mask_colour": colour, "exact": exact,
    }  # fmt: skip
    page = Page("edit", list_editing(), choose_editing(None, losses=False), seeds="0", photo=True)
    return make_form(session, page, inputs, lambda values: _finish(session.desk, values))


def _show_photo(path: str | None) -> Any:
    """The photo as it is painted on."""
    if path is None:
        return gr.update(value=None, visible=False)
    shown = to_pil(on_white(read_picture(path)))
    shown.thumbnail((PAINTED, PAINTED))
    return gr.update(value={"background": shown, "layers": [], "composite": None}, visible=True)


def _finish(desk: Desk, values: dict[str, Any]) -> dict[str, Any]:
    """The inputs of an edit: the mask as a file, of the photo's size."""
    if not values["photo"]:
        raise UserError("there is no photo", "add one", "photo")
    mask = paint_mask(values["mask"], values["photo"])
    path = None
    if mask is not None:
        path = desk.side(UPLOADS) / "masks" / f"{secrets.token_hex(8)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
    found = {**values, "mask": None if path is None else str(path)}
    return {**found, "prompt": values["prompt"] or values["source"]}


def paint_mask(painted: Any, photo: str | Path) -> Image.Image | None:
    """White where something was painted, at the photo's size; None if nothing was.

    Args:
        painted: What Gradio's editor gives.
        photo: The photo's file.
    """
    layers = (painted or {}).get("layers") or []
    covered = [np.asarray(layer.convert("RGBA"))[..., 3] > 0 for layer in layers]
    if not covered or not np.any(covered):
        return None
    height, width = read_picture(photo).shape[-2:]
    together = Image.fromarray(np.any(covered, axis=0))
    return together.resize((width, height), Image.Resampling.NEAREST).convert("L")
