"""An audit of the bundled classifier, AdjointDPM's Table 3: `python benchmarks/audit.py`.

How often it is misled by an image within a ball around the noise of one that it reads right, while
an independent judge still sees what was there; and by as many random draws from the same ball.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import chainrule
from base import Options, machine, publish, shorten, table
from chainrule.losses import load_classifier
from chainrule.methods import Audit, AuditTask
from chainrule.methods.audited import AuditState
from chainrule.metrics import wilson
from chainrule.noise import Noise
from chainrule.scenes.judge import load_judge

FRESH = 1000
"""The first seed of the random draws."""

PROMPTS = tuple(
    f"a {colour} {shape} on a {background} background"
    for shape, colour in (
        ("circle", "red"),
        ("square", "blue"),
        ("triangle", "yellow"),
        ("shape", "pink"),
    )
    for background in ("white", "black")
)


@torch.no_grad()
def count_by_chance(task: AuditTask, method: Audit, label: Tensor) -> list[int]:
    """How many are misled by as many uniform draws from each ball as the search has iterations."""
    rows = torch.nonzero(label >= 0).squeeze(1)
    seeds = tuple(FRESH + i for i in rows.tolist())
    middle = task.model.noise(task.seeds).repeat(len(task.prompts), 1, 1, 1)[rows]
    misled, counts = torch.zeros_like(rows, dtype=torch.bool), []
    for level, tau in enumerate(method.radii):
        for k in range(method.iterations):
            draw = level * method.iterations + k
            x_T = middle + tau * (2 * Noise(seeds).uniform(draw, middle.shape[1:]).to(middle) - 1)
            images = method.draw(task, x_T, rows)
            seen = task.classifier(images).argmax(dim=1)
            misled |= (seen != label[rows]) & (task.ask_judge(images) == label[rows])
        counts.append(int(misled.sum()))
    return counts


def search(task: AuditTask, method: Audit) -> AuditState:
    """The end of the search."""
    for state in method.run(task):
        misled = int((state.level < len(method.radii)).sum())
        print(f"{state.iteration}: {misled} of {int((state.label >= 0).sum())}", flush=True)
    return state


def count_misled(task: AuditTask, method: Audit, state: AuditState) -> list[list[object]]:
    """For each class and for all: how many images there are, and what share each ball misled."""
    label, labels = state.label, task.classifier.labels
    seen = label[label >= 0].unique().tolist()
    groups = {labels[c]: label == c for c in seen} | {"**all**": label >= 0}
    rows: list[list[object]] = []
    for name, group in groups.items():
        of, levels = int(group.sum()), range(len(method.radii))
        shares = [wilson(int((state.level[group] <= i).sum()), of) for i in levels]
        rows.append([name, of, *shares])
    chance = count_by_chance(task, method, label)
    n = int((label >= 0).sum())
    rows.append(["all, random draws from the ball", n, *(wilson(count, n) for count in chance)])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--count", type=int, default=16, toy=1, help="seeds for each prompt")
    options.add("--prompts", type=int, default=len(PROMPTS), toy=4, help="how many of them")
    arguments = options.parse(argv)
    method, count = Audit(tau=(0.1, 0.3, 1.0)), arguments.count
    method = shorten(method) if arguments.toy else method
    model, prompts = chainrule.load(), PROMPTS[: arguments.prompts]
    task = AuditTask(model, prompts, tuple(range(count)), load_classifier(), load_judge())
    state = search(task, method)
    rows = count_misled(task, method, state)
    header = ["class", "images", *(f"tau {tau:g}" for tau in method.radii)]
    text = [
        "## An audit of the bundled classifier",
        f"`python benchmarks/audit.py --count {count}` on {machine()}. Of {len(state.label)} "
        "images (eight prompts, seeds from 0) classifier and judge read "
        f"{int((state.label >= 0).sum())} alike; within a ball of radius tau around their noise "
        f"(infinity norm; the noise has variance 1), {method.iterations} iterations for each "
        "radius: how often the classifier sees another class while the judge still sees the first; "
        "95 % intervals. Beside it, as many uniform draws from the same balls, which cost a third. "
        "Prompts share their seeds, so the intervals are, if anything, too narrow.",
        table(header, rows),
    ]
    publish("audit", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
