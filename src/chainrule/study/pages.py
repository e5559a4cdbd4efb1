"""The pages of a study, as plain HTML: no scripts, nothing from elsewhere.

Whatever is a study's own (prompts, questions, names) is escaped. On a rater's page nothing depends
on whose picture it is but the picture.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from html import escape

from chainrule.metrics import Interval
from chainrule.study.assignment import Shown
from chainrule.study.protocols import ASKED, Choice
from chainrule.study.spec import Study

STYLE = """
:root { color-scheme: light; font: 1.05rem/1.45 system-ui, sans-serif; }
body { margin: 0; background: #f4f4f4; color: #1a1a1a; }
main { max-width: 70rem; margin: 0 auto; padding: 0.75rem; }
h1 { font-size: 1.3rem; margin: 0.5rem 0; }
h2 { font-size: 1.1rem; margin: 1.5rem 0 0.5rem; }
p { margin: 0.5rem 0; }
progress { width: 100%; height: 0.6rem; accent-color: #1f5fa8; }
blockquote { margin: 0.5rem 0; padding: 0.4rem 0.8rem; border-left: 4px solid #1f5fa8;
  background: #fff; }
.pictures { display: flex; flex-wrap: wrap; gap: 0.75rem; justify-content: center; }
figure { flex: 1 1 9rem; max-width: 32rem; margin: 0; text-align: center; }
figure img { width: 100%; height: auto; max-height: 70vh; object-fit: contain; background: #ddd; }
fieldset { border: 0; margin: 0.75rem 0 0; padding: 0; }
.answers { display: grid; grid-template-columns: 1fr 1fr; gap: 0.5rem; }
legend { padding: 0; margin-bottom: 0.4rem; }
button { min-height: 2.9rem; padding: 0.4rem 0.8rem; font: inherit; color: #fff;
  background: #1f5fa8; border: 2px solid #1f5fa8; border-radius: 0.4rem; cursor: pointer; }
button.chosen { color: #1f5fa8; background: #fff; }
button:hover { background: #174a84; color: #fff; }
:focus-visible { outline: 3px solid #b34700; outline-offset: 2px; }
a { color: #174a84; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; margin-bottom: 1rem; font-size: 0.95rem; }
caption { text-align: left; padding: 0.3rem 0; }
th, td { padding: 0.3rem 0.6rem; border: 1px solid #c8c8c8; text-align: left; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { background: #fff; }
svg text { font-size: 14px; fill: #1a1a1a; }
svg .whole { stroke: #c8c8c8; }
svg .interval { stroke: #1f5fa8; stroke-width: 3; }
svg circle { fill: #b34700; }
"""
STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""By which a page's security policy knows its style."""
BESIDE = {"original": "The original", "thing": "The thing"}
ASK = "This one checks that you read what is asked. Please choose “{answer}” here."


def make_page(title: str, body: str) -> str:
    """A whole page.

    Args:
        title: Its title, as text.
        body: What is in it, as HTML.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def make_message(title: str, text: str) -> str:
    """A page that says one thing.

    Args:
        title: Its heading.
        text: The sentence.
    """
    return make_page(title, f"<h1>{escape(title)}</h1>\n<p>{escape(text)}</p>")


def make_question(
    study: Study, shown: Shown, number: int, total: int, base: str, chosen: str | None = None
) -> str:
    """The page of a question.

    Args:
        study: The study.
        shown: The question, as this rater sees it.
        number: Which one it is for the rater, from 1.
        total: How many there are.
        base: The last part of the page's own address, from which links are relative.
        chosen: What was answered before, if it was.
    """
    protocol, question = study.protocol, shown.question
    asked = protocol.question
    if question.check == ASKED:
        texts = {each.value: each.text for each in protocol.choices}
        asked = ASK.format(answer=texts[question.right[0]])
    prompt = study.clusters[question.cluster].prompt if protocol.show_prompt else ""
    parts = [
        f'<p role="status">Question {number} of {total}</p>',
        f'<progress value="{number - 1}" max="{total}" aria-label="Progress"></progress>',
        f"<h1>{escape(asked)}</h1>",
        f"<blockquote>{escape(prompt)}</blockquote>" if prompt.strip() else "",
        _show_pictures(shown, BESIDE.get(protocol.beside or ""), base),
        _show_form(question.name, protocol.choices, base, chosen),
        f'<p><a href="{base}?at={number - 1}">Back to the question before</a></p>'
        if number > 1
        else "",
    ]
    return make_page(f"Question {number} of {total}", "\n".join(part for part in parts if part))


def _show_pictures(shown: Shown, beside: str | None, base: str) -> str:
    several = len(shown.pictures) > 1
    captions = [f"Picture {place}" if several else "The picture"
                for place, _ in enumerate(shown.pictures, 1)]  # fmt: skip
    pictures = list(zip(captions, shown.pictures, strict=True))
    if beside is not None and shown.question.beside is not None:
        pictures.insert(0, (beside, shown.question.beside))
    figures = [
        f'<figure><img src="{base}/{name}.png" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, name in pictures
    ]
    return f'<div class="pictures">{"".join(figures)}</div>'


def _show_form(name: str, choices: Sequence[Choice], base: str, chosen: str | None) -> str:
    buttons = []
    for each in choices:
        mark = ' class="chosen" aria-pressed="true"' if each.value == chosen else ""
        buttons.append(
            f'<button name="choice" value="{escape(each.value)}"{mark}>{escape(each.text)}</button>'
        )
    legend = "Your answer" if chosen is None else "Your answer (it can be changed)"
    return (
        f'<form method="post" action="{base}"><input type="hidden" name="question" value="{name}">'
        f'<fieldset><legend>{legend}</legend><div class="answers">{"".join(buttons)}</div>'
        "</fieldset></form>"
    )


def make_table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> str:
    """A table as HTML.

    Args:
        caption: What it shows.
        columns: The names of its columns.
        rows: Its cells.
        words: How many of its first columns name the rows; the others are numbers.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = []
    for row in rows:
        names = "".join(f'<th scope="row">{escape(cell)}</th>' for cell in row[:words])
        cells = "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[words:])
        lines.append(f"<tr>{names}{cells}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def draw_intervals(title: str, rows: Sequence[tuple[str, Interval]]) -> str:
    """Rates with their intervals on lines from 0 to 100 %, as SVG.

    Args:
        title: What they are.
        rows: The name of each, and its rate.
    """
    left, width, step = 30 + 9 * max(len(name) for name, _ in rows), 480, 30
    parts = []
    for place, (name, (value, low, high)) in enumerate(rows):
        y = step * place + 20
        x, start, end = (left + width * each for each in (value, low, high))
        parts.append(f'<text x="{left - 12}" y="{y + 5}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line class="whole" x1="{left}" y1="{y}" x2="{left + width}" y2="{y}"/>')
        if not math.isnan(low):
            ends = f'x1="{start:.1f}" y1="{y}" x2="{end:.1f}" y2="{y}"'
            parts.append(f'<line class="interval" {ends}/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="6"/>')
    bottom = step * len(rows) + 20
    for share in (0, 50, 100):
        x = left + width * share / 100
        parts.append(f'<text x="{x:g}" y="{bottom}" text-anchor="middle">{share} %</text>')
    return (
        f'<div class="scroll" tabindex="0"><svg role="img" aria-label="{escape(title)}" '
        f'viewBox="0 0 {left + width + 40} {bottom + 10}" width="{left + width + 40}">'
        f"{''.join(parts)}</svg></div>"
    )
