"""What pages show of runs, as HTML: how one goes, a gallery, one whole, two beside each other.

Whatever is a run's own (prompts, names, notes, numbers) is escaped. Pictures are named by the
addresses that `chainrule.studio.files` serves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chainrule.studio.desk import Entry
from chainrule.studio.listing import Card
from chainrule.studio.live import Progress
from chainrule.studio.strip import SHEET_OF_ALL, Look, Shown

NORMS, FLAT = (0.9, 1.1), 0.85
"""Between which norms, and above which flatness of the spectrum, noise still passes for noise."""
WORDS = {
    "waiting": "waits for its turn",
    "running": "at work",
    "stopped": "stopped; the best so far is kept",
    "done": "done",
    "failed": "failed",
    "unfinished": "not finished",
}
NOTHING = "<p>Nothing is at work here. What you start is shown in this place.</p>"
WIDTH, HEIGHT = 320, 110


def write_seconds(seconds: float) -> str:
    """A time for people.

    >>> write_seconds(7.2), write_seconds(95), write_seconds(7300)
    ('7 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def address(name: str, *parts: str) -> str:
    """Where a run's picture is served.

    Args:
        name: The run's.
        parts: What of it: "file", "look" or "thumb", and its name.
    """
    return "/".join(("/runs", quote(name), *map(quote, parts)))


# --- a run on its way -----------------------------------------------------------------------------


def show_run(entry: Entry, now: Progress, shown: Shown) -> str:
    """How a run goes.

    Args:
        entry: Its place in the queue.
        now: What its events said.
        shown: What was seen of it.
    """
    parts = [
        f'<h2 class="name">{escape(entry.name)}</h2>',
        f'<p class="status {entry.status}">{escape(_describe(entry, now))}</p>',
        _show_bar(entry, now),
        _show_ends(entry, shown),
        _show_gauges(shown),
        _show_curves(shown),
        _show_way(entry.name, shown),
        _show_notes(now.notes),
    ]
    return f'<section aria-label="The run">{"".join(parts)}</section>'


def _describe(entry: Entry, now: Progress) -> str:
    """In a sentence, what becomes of a run."""
    if entry.status == "failed":
        return f"Failed: {entry.reason}"
    if entry.status != "running":
        return f"{WORDS[entry.status][:1].upper()}{WORDS[entry.status][1:]}."
    if not now.label:
        return "At work: the model is loaded."
    said = f"At work: {now.label}"
    if now.total is not None:
        said += f", {now.part} {now.done} of {now.total}"
    done, total = now.step
    if total and now.total is None:
        said += f", step {done} of {total}"
    if now.left is not None:
        said += f"; about {write_seconds(now.left)} left of this part"
    return f"{said}."


def _show_bar(entry: Entry, now: Progress) -> str:
    if entry.status != "running":
        return ""
    done, total = (now.done, now.total) if now.total else now.step
    share = f'value="{done}" max="{max(total, 1)}"' if total else ""
    return f'<progress {share} aria-label="How much of this part is done"></progress>'


def _show_ends(entry: Entry, shown: Shown) -> str:
    """The start, and the last look at each method, side by side."""
    if not shown.looks:
        return ""
    first = shown.looks[0]
    last = {look.label: look for look in shown.looks}
    if SHEET_OF_ALL in last:  # the previews before it are on the way
        last = {SHEET_OF_ALL: last[SHEET_OF_ALL]}
    title = "The result" if entry.status == "done" else "Now: the best so far"
    ends = [_show_look(entry.name, first, "The start")]
    ends += [_show_look(entry.name, look, title) for look in last.values() if look != first]
    return f'<div class="pair">{"".join(ends)}</div>'


def _show_look(name: str, look: Look, title: str) -> str:
    facts = [look.label]
    if look.score is not None:
        facts.append(f"judge {look.score:.2f}")
    if look.loss is not None:
        facts.append(f"loss {look.loss:.4g}")
    if not look.exact:
        facts.append("preview")
    said = escape(", ".join(facts))
    kind = ' class="wide"' if look.wide else ""
    return (
        f'<figure{kind}><img src="{address(name, "look", look.picture)}" '
        f'alt="{escape(title)}: {said}">'
        f"<figcaption><strong>{escape(title)}</strong><br>{said}</figcaption></figure>"
    )


def _show_gauges(shown: Shown) -> str:
    """Whether the noise of the best is still noise."""
    look = next((each for each in reversed(shown.looks) if each.norm is not None), None)
    if look is None or look.norm is None or look.flatness is None:
        return ""
    low, high = NORMS
    good = low <= look.norm <= high and look.flatness >= FLAT
    verdict = "It still looks like noise." if good else "It no longer looks like noise."
    return (
        '<h3>The noise it starts from</h3><div class="gauges">'
        f'<label>Norm {look.norm:.3f} (of noise: 1)<meter min="0" max="2" low="{low}" '
        f'high="{high}" optimum="1" value="{look.norm:.4f}"></meter></label>'
        f"<label>Flatness of its spectrum {look.flatness:.3f} (of noise: 1)"
        f'<meter min="0" max="1" low="{FLAT}" optimum="1" value="{look.flatness:.4f}"></meter>'
        f"</label><p>{verdict}</p></div>"
    )


def _show_curves(shown: Shown) -> str:
    """A curve for each loss, for the best of whole images, and for who judges apart."""
    charts = []
    for label, curves in shown.curves.items():
        charts += [draw_curve(f"{label}: {name}, as optimised", ys) for name, ys in curves.items()]
    labels = dict.fromkeys(look.label for look in shown.looks)
    for label in labels:
        own = [look for look in shown.looks if look.label == label]
        best = [look.loss for look in own if look.loss is not None]
        if len(best) > 1:
            charts.append(draw_curve(f"{label}: loss of the best so far", best))
    scores = [look.score for look in shown.looks if look.score is not None]
    if len(scores) > 1:
        charts.append(draw_curve(f"{shown.judge}: asked, never optimised", scores))
    if not charts:
        return ""
    return f'<h3>How it goes</h3><div class="curves">{"".join(charts)}</div>'


def draw_curve(title: str, values: Sequence[float]) -> str:
    """Numbers in their order as a line, with its first, last, least and most in words.

    Args:
        title: What they are.
        values: One or more.
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    spread = high - low or 1.0
    across = WIDTH / max(len(values) - 1, 1)
    points = " ".join(
        f"{place * across:.1f},{HEIGHT - 8 - (value - low) / spread * (HEIGHT - 16):.1f}"
        for place, value in enumerate(values)
        if math.isfinite(value)
    )
    line = f'<polyline points="{points}" fill="none" stroke-width="2.5"/>'
    if len(known) == 1:
        line = f'<circle cx="{WIDTH / 2}" cy="{HEIGHT / 2}" r="4"/>'
    said = f"from {known[0]:.4g} to {known[-1]:.4g} (least {low:.4g}, most {high:.4g})"
    return (
        f'<figure class="curve"><svg role="img" aria-label="{escape(title)}: {said}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">{line}</svg>'
        f"<figcaption>{escape(title)}<br>{said}</figcaption></figure>"
    )


def _show_way(name: str, shown: Shown) -> str:
    """The strip of what came between."""
    if len(shown.looks) < 3:
        return ""
    figures = "".join(
        f"<figure{' class=wide' if look.wide else ''}>"
        f'<img src="{address(name, "look", look.picture)}" '
        f'alt="{escape(look.label)}, {look.done} done">'
        f"<figcaption>{escape(look.label)} {look.done}</figcaption></figure>"
        for look in shown.looks
    )
    return (
        '<h3>The way</h3><div class="way" tabindex="0" role="region" '
        f'aria-label="The pictures on the way, from the first to the last">{figures}</div>'
    )


def _show_notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    lines = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return f'<h3>What should be known</h3><ul class="notes">{lines}</ul>'


def show_queue(entries: Sequence[Entry]) -> str:
    """The runs that are at work or wait, in their order."""
    open_ones = [each for each in entries if each.status in ("running", "waiting")]
    if not open_ones:
        return '<p class="queue">No run waits.</p>'
    lines = "".join(
        f"<li>{escape(each.name)}: {escape(WORDS[each.status])}</li>" for each in open_ones
    )
    return f'<ol class="queue" aria-label="The queue">{lines}</ol>'


# --- runs that were made --------------------------------------------------------------------------


def show_gallery(cards: Sequence[Card], chosen: Sequence[str] = ()) -> str:
    """Runs as a grid of buttons with their pictures.

    Args:
        cards: Those of a page.
        chosen: The names of those that are looked at.
    """
    if not cards:
        return "<p>There is no run here. Make one on the page Create, or change the filter.</p>"
    tiles = "".join(
        f'<li><button type="button" data-run="{escape(card.name)}" '
        f'aria-pressed="{str(card.name in chosen).lower()}">'
        f'<img src="{address(card.name, "thumb")}" alt="" loading="lazy" '
        "onerror=\"this.style.visibility='hidden'\">"
        f"<span><strong>{escape(card.name)}</strong>"
        f"{escape(card.prompt[:80]) or 'no prompt'}<br>"
        f"{escape(', '.join(dict.fromkeys(card.methods))[:60])}<br>"
        f"{escape(WORDS.get(card.status, card.status))}</span></button></li>"
        for card in cards
    )
    return f'<ul class="gallery" aria-label="Runs">{tiles}</ul>'


def show_whole(
    name: str, path: Path, pictures: Sequence[Path], files: Sequence[Path], report: Mapping
) -> str:
    """A run: its pictures to download, its numbers, its files.

    Args:
        name: The run's.
        path: Its folder.
        pictures: Its pictures.
        files: What it has learnt.
        report: Its report; empty: there is none.
    """
    figures = "".join(
        f'<figure><img src="{address(name, "file", inside)}" alt="{escape(Path(inside).stem)}" '
        f'loading="lazy"><figcaption>{escape(Path(inside).stem)}<br>'
        f'<a href="{address(name, "file", inside)}?download=1" download>'
        f"Download {escape(Path(inside).name)}</a></figcaption></figure>"
        for inside in (each.relative_to(path).as_posix() for each in pictures)
    )
    learnt = "".join(
        f'<li><a href="{address(name, "file", each.name)}?download=1" download>'
        f"Download {escape(each.name)}, what was learnt</a></li>"
        for each in files
    )
    return (
        f'<h2 class="name">{escape(name)}</h2><div class="pictures">{figures}</div>'
        f"{_tabulate(report)}"
        f'<ul class="links">{learnt}<li><a href="{address(name, "zip")}" download>'
        "Download the whole run as a zip</a></li></ul>"
        "<p>Each picture carries its settings: <code>chainrule rerun PICTURE</code> makes it "
        "again.</p>"
    )


def _tabulate(report: Mapping[str, Any]) -> str:
    """Each method's numbers, means over the images."""
    rows = []
    for label, found in (report.get("methods") or {}).items():
        losses, scores = found.get("losses"), next(iter((found.get("scores") or {}).values()), None)
        cells = [_write_mean(losses), _write_mean(scores), str(found.get("passes", ""))]
        cells.append(write_seconds(float(found.get("seconds") or 0)))
        body = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{escape(str(label))}</th>{body}</tr>')
    if not rows:
        return ""
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("method", "loss", "judge", "passes", "time")
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Numbers"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _write_mean(values: Any) -> str:
    known = [value for value in values or () if isinstance(value, (int, float))]
    return f"{sum(known) / len(known):.4g}" if known else ""


def show_comparison(left: tuple[str, str], right: tuple[str, str]) -> str:
    """Two pictures, one over the other, and a slider that tells where the second one begins.

    Args:
        left: The first one's run, and its name in it.
        right: The second one's.
    """
    one, other = (f"{name}: {Path(file).stem}" for name, file in (left, right))
    return (
        '<div class="compare" style="--at: 50%">'
        f'<div><img src="{address(left[0], "file", left[1])}" alt="{escape(one)}">'
        f'<img src="{address(right[0], "file", right[1])}" alt="{escape(other)}"></div>'
        f"<label>Left: {escape(one)}. Right: {escape(other)}."
        '<input type="range" min="0" max="100" value="50" '
        'aria-label="Where the second picture begins, in percent from the left" '
        "oninput=\"this.closest('.compare').style.setProperty('--at', this.value + '%')\">"
        "</label></div>"
    )
