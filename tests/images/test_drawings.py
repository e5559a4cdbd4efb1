"""Contact sheets and charts."""

from __future__ import annotations

import torch

from chainrule.images import chart, contact_sheet, loss_curves, on_white


def test_a_long_title_of_a_contact_sheet_is_wrapped() -> None:
    columns, captions = {"plain": torch.ones(1, 3, 64, 64)}, {"plain": [""]}
    titles = ("heart", "a red shape " * 9)
    short, long = (contact_sheet(columns, [""], captions, title) for title in titles)
    assert long.width == short.width
    assert long.height > short.height


def test_what_stands_above_a_column_does_not_run_into_the_next() -> None:
    image = torch.ones(1, 3, 64, 64)
    captions = {"plain": [""], "plain, with classifier-free guidance 3": [""], "": [""]}
    sheet = contact_sheet(dict.fromkeys(captions, image), [""], captions)
    assert sheet.height > contact_sheet({"plain": image}, [""], captions).height
    third = sheet.width - 192  # of a picture that is all white
    assert sheet.crop((third - 8, 0, sheet.width, sheet.height)).getcolors() == [
        (200 * sheet.height, (255, 255, 255))
    ]


def test_what_is_transparent_is_shown_on_white() -> None:
    """Not in the colours that are hidden under it."""
    image = torch.tensor([1.0, 0.0, 0.0, 0.0])[:, None, None].repeat(1, 192, 192)
    image[3, :, 96:] = 1.0
    sheet = contact_sheet({"plain": image[None]}, [""], {"plain": [""]})
    opaque = contact_sheet({"plain": on_white(image)[None]}, [""], {"plain": [""]})
    assert sheet.tobytes() == opaque.tobytes()
    assert {(255, 255, 255), (255, 0, 0)} <= {colour for _, colour in sheet.getcolors(1 << 16)}
    assert sheet.getpixel((90, 120)) == (255, 255, 255)


def test_a_contact_sheet_of_nothing_is_empty() -> None:
    assert contact_sheet({}, [], {}).size == (192, 192)


def test_a_chart_leaves_out_what_is_not_finite() -> None:
    history = torch.tensor([[1.0, torch.nan], [2.0, torch.inf], [3.0, 1.0]])
    drawn = chart("loss", history, ["a", "b"], ("0", "2"))
    assert drawn.size == (720, 420)
    colours = {colour for _, colour in drawn.getcolors(1 << 16)}
    assert {(0xD6, 0x27, 0x28), (0x1F, 0x77, 0xB4)} <= colours  # both lines are there
    flat = chart("loss", torch.ones(1, 1), ["a"], ("0", "0"))
    assert flat.size == (720, 420)


def test_there_is_a_chart_for_each_quantity() -> None:
    curves = {name: torch.rand(5, 2) for name in ("loss", "symmetry")}
    assert loss_curves(curves, (3, 4)).size == (720, 840)
