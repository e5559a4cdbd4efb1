"""What an audit found: in numbers, in words, in tables and a curve."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chainrule.errors import tidy
from chainrule.images import chart
from chainrule.methods.audited import NEARLY, AuditState, AuditTask, warn_of_shared
from chainrule.metrics import wilson


def make_report(
    task: AuditTask, state: AuditState, radii: Sequence[float], searched: int
) -> dict[str, Any]:
    """For each class, and for all, how many images there were and what share was misled.

    Args:
        task: What is audited.
        state: Where the audit is.
        radii: Those of all its searches, rising.
        searched: How many of these are done.
    """
    done = list(radii[:searched])
    audited, labels = state.label >= 0, _tell_apart(task.classifier.labels)
    seen = state.label[audited].unique().tolist()
    groups = {labels[c]: state.label == c for c in seen} | {"all": audited}
    misled = {
        name: [
            wilson(int((state.level[group] <= i).sum()), int(group.sum()))._asdict()
            for i in range(len(done))
        ]
        for name, group in groups.items()
    }
    return {
        "images": len(state.label),
        "radii": done,
        "audited": {name: int(group.sum()) for name, group in groups.items()},
        "misled": misled,
        "shared_weights": task.shared,
        "prompts": [_count(task, state, i, len(radii)) for i in range(len(task.prompts))],
    }


def _count(task: AuditTask, state: AuditState, i: int, radii: int) -> dict[str, Any]:
    """What became of the images of prompt `i`."""
    n, named = len(task.seeds), task.named[i]
    label, level, seen = (v[i * n : (i + 1) * n] for v in (state.label, state.level, state.seen))
    known = torch.tensor(named, dtype=label.dtype, device=label.device)
    audited, misled = label >= 0, (label >= 0) & (level < radii)
    against = audited & ~torch.isin(label, known) & bool(named)
    return {
        "prompt": task.prompts[i],
        "names": [task.classifier.labels[c] for c in named],
        "images": n,
        "audited": int(audited.sum()),
        "disagreed": int((~audited).sum()),
        "misled": int(misled.sum()),
        "contradicted": int(against.sum()),
        "contradicted_misled": int((against & misled).sum()),
        "corrected": int((against & misled & torch.isin(seen, known)).sum()),
    }


def name_image(task: AuditTask, i: int) -> str:
    """Image `i` by its prompt and seed, in a row of a contact sheet.

    Args:
        task: Whose image.
        i: Its number.
    """
    prompt, seed = divmod(i, len(task.seeds))
    which = f"{prompt + 1}. " if len(task.prompts) > 1 else ""
    return f"{which}seed {task.seeds[seed]}"


def describe_image(
    task: AuditTask, state: AuditState, radii: Sequence[float], i: int
) -> dict[str, Any]:
    """What is known of an image, in columns of a table.

    Args:
        task: What is audited.
        state: Where the audit is.
        radii: Those of all its searches, rising.
        i: The image's number.
    """
    labels, level = task.classifier.labels, int(state.level[i])
    label, prompt = int(state.label[i]), i // len(task.seeds)
    named = task.named[prompt]
    against = label >= 0 and bool(named) and label not in named
    return {
        "prompt": task.prompts[prompt],
        "seed": task.seeds[i % len(task.seeds)],
        "class": labels[label] if label >= 0 else "",
        "seen": labels[int(state.seen[i])],
        "tau": radii[level] if label >= 0 and level < len(radii) else "",
        "named": ", ".join(labels[c] for c in named),
        "contradicts": "yes" if against else "",
        **_tell_reading(task, state.before[i], "before"),
        **_tell_reading(task, state.after[i], "after"),
    }


def _tell_apart(labels: Sequence[str]) -> list[str]:
    """The labels, with their numbers where there are several of one name, or it is "all"."""
    count = Counter(labels) + Counter(["all"])
    return [f"{label} ({i})" if count[label] > 1 else label for i, label in enumerate(labels)]


def _tell_reading(task: AuditTask, read: Tensor, when: str) -> dict[str, Any]:
    """What classifier and judge read in one image, in columns of a table."""
    own, sure, other, surely = read.tolist()
    return {
        f"classifier_{when}": task.classifier.labels[int(own)],
        f"classifier_{when}_probability": round(sure, 4),
        f"judge_{when}": task.judge.labels[int(other)],
        f"judge_{when}_probability": round(surely, 4),
    }


def tell_readings(task: AuditTask, read: Tensor) -> str:
    """What classifier and judge saw most often, in a clause.

    Args:
        task: What is audited.
        read: (N, 4), as in `AuditState.before`.
    """
    said = []
    for role, network, column in (("classifier", task.classifier, 0), ("judge", task.judge, 2)):
        often = Counter(int(i) for i in read[:, column].tolist()).most_common(3)
        some = ", ".join(f"{tidy(network.labels[i])} {n} of {len(read)}" for i, n in often)
        said.append(f"{role}: {some}")
    return "; ".join(said)


def caption_images(task: AuditTask, images: Tensor, size: int) -> list[str]:
    """What the classifier and the judge see in some images, and how sure they are.

    Args:
        task: What is audited.
        images: (n, 3, H, W) in [0, 1].
        size: How many are looked at at once.
    """
    if len(images) > size:
        return [said for part in images.split(size) for said in caption_images(task, part, size)]
    said = []
    for network in (task.classifier, task.judge):
        sure, index = network(images).softmax(dim=1).max(dim=1)
        pairs = zip(sure.tolist(), index.tolist(), strict=True)
        said.append([f"{network.labels[i]} {p:.0%}" for p, i in pairs])
    return [f"{one} / {two}" for one, two in zip(*said, strict=True)]


def write_markdown(found: Mapping[str, Any], *, stopped: bool) -> str:
    """A report as Markdown.

    Args:
        found: What `make_report` gives.
        stopped: Whether there were radii left.
    """
    header = ["class", "images", *(f"tau {tau:g}" for tau in found["radii"])]
    lines = []
    for name, row in found["misled"].items():
        cells = [f"{i['value']:.3f} [{i['low']:.3f}, {i['high']:.3f}]" for i in row]
        lines.append([name, str(found["audited"][name]), *cells])
    table = _write_rows(header, lines)
    counted = ("images", "disagreed", "misled")
    prompts = _write_rows(
        ["prompt", "classes it names", *counted, "contradicted"],
        [
            [
                each["prompt"],
                ", ".join(each["names"]) or "none",
                *(str(each[key]) for key in counted),
                str(each["contradicted"]) if each["names"] else "not known",
            ]
            for each in found["prompts"]
        ],
    )
    unnamed = sum(not each["names"] for each in found["prompts"])
    unknown = (
        f"{unnamed} of {len(found['prompts'])} prompts name none of the classifier's classes: of "
        "their images it is not known whether what both saw is right.\n\n"
    )
    total = {
        key: sum(each[key] for each in found["prompts"])
        for key in ("disagreed", "contradicted", "contradicted_misled", "corrected")
    }
    share = found["shared_weights"]
    nearly = f"**{warn_of_shared(share)}.**\n\n" if share >= NEARLY else ""
    early = "It was stopped before the larger ones were done. " if stopped else ""
    return (
        f"# How often the classifier was misled\n\nOf {found['images']} images, classifier and "
        f"judge saw the same in {found['audited']['all']}; those were searched, in balls of the "
        f"radius tau around their noise.\n{early}A success: the classifier sees another class, the "
        f"judge still the first. Shares with 95 % intervals.\n\n{nearly}{table}\n\n"
        f"In {total['contradicted']} of the images that were searched, the class that both saw "
        f"contradicts the prompt: it is none that the prompt names. {total['contradicted_misled']} "
        f"of these count as misled, and in {total['corrected']} of those the classifier went over "
        "to what the prompt names: it may have corrected itself. report.csv marks them.\n\n"
        f"{unknown if unnamed else ''}"
        f"In {total['disagreed']} images the two disagreed from the start; these were not "
        f"searched.\n\n{prompts}\n\n"
        "![the share over the radius](curve.png)\n\n![examples](contact-sheet.png)\n"
    )


def _write_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown, whatever stands in its cells."""
    lines = [header, ["---"] * len(header), *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escape(cell: str) -> str:
    """A text of one line that Markdown shows as it is; intervals keep their brackets."""
    return re.sub(r"([\\|<>`]|!\[|\]\()", r"\\\1", tidy(cell))


def draw_curve(found: Mapping[str, Any]) -> Any:
    """The share misled over the radius, a line a class.

    Args:
        found: What `make_report` gives.
    """
    radii, rows = found["radii"], found["misled"]
    curve = torch.tensor([[0.0, *(i["value"] for i in row)] for row in rows.values()]).T
    shown = ", ".join(f"{tau:g}" for tau in (0.0, *radii))
    ends = ("tau 0", f"tau {radii[-1] if radii else 0:g}")
    return chart(f"share misled, at tau = {shown}", curve, list(rows), ends)
