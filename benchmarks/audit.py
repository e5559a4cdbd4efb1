"""An audit of the bundled classifier, AdjointDPM's Table 3: `python benchmarks/audit.py`.

How often it is misled by an image within a ball around the noise of one that it reads right, while an independent judge
still sees what was there; and by as many random draws from the same ball.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule.losses import load_classifier
from chainrule.methods import Audit, AuditTask, audit
from chainrule.methods.audit import made, start
from chainrule.metrics import wilson
from chainrule.noise import Noise
from chainrule.scenes.judge import load_judge

FRESH = 1000
"""The first seed of the random draws."""

PROMPTS = tuple(
    f"a {colour} {shape} on a {background} background"
    for shape, colour in (("circle", "red"), ("square", "blue"), ("triangle", "yellow"), ("shape", "pink"))
    for background in ("white", "black")
)


@torch.no_grad()
def by_chance(suspect: AuditTask, settings: Audit, label: Tensor) -> list[int]:
    """How many are misled by as many uniform draws from each ball as the search has iterations."""
    chosen = torch.nonzero(label >= 0).squeeze(1)
    seeds = tuple(FRESH + i for i in chosen.tolist())
    middle = suspect.model.noise(suspect.seeds).repeat(len(suspect.prompts), 1, 1, 1)[chosen]
    misled, counts = torch.zeros(len(chosen), dtype=torch.bool), []
    for level, tau in enumerate(settings.radii):
        for k in range(settings.iterations):
            draw = level * settings.iterations + k
            x_T = middle + tau * (2 * Noise(seeds).uniform(draw, middle.shape[1:]) - 1)
            images = made(suspect, settings, x_T, chosen)
            seen = suspect.classifier(images).argmax(dim=1)
            misled |= (seen != label[chosen]) & (suspect.loss_and_gradient(images) == label[chosen])
        counts.append(int(misled.sum()))
    return counts


def measure(count: int) -> None:
    settings = Audit(taus=(0.1, 0.3, 1.0))
    suspect = AuditTask(chainrule.load(), PROMPTS, tuple(range(count)), load_classifier(), load_judge())
    first = start(suspect, settings)
    label = first.label
    for state in audit(suspect, settings, first):
        print(f"{int(state.done)}: {int((state.level < 3).sum())} of {int((label >= 0).sum())}", flush=True)
    labels, n = suspect.classifier.labels, int((label >= 0).sum())
    rows = []
    for name, group in {labels[c]: label == c for c in label[label >= 0].unique().tolist()}.items():
        of = int(group.sum())
        rows.append([name, of, *(wilson(int((state.level[group] <= i).sum()), of) for i in range(3))])
    rows.append(["**all**", n, *(wilson(int((state.level[label >= 0] <= i).sum()), n) for i in range(3))])
    rows.append(["all, random draws from the ball", n, *(wilson(c, n) for c in by_chance(suspect, settings, label))])
    publish(
        "audit",
        "## An audit of the bundled classifier\n\n"
        f"`python benchmarks/audit.py --count {count}` on {machine()}. Of {len(label)} images (eight "
        f"prompts, seeds from 0) classifier and judge read {n} alike; within a ball of radius tau around their noise "
        f"(infinity norm; the noise has variance 1), {settings.iterations} iterations for each radius: how often the "
        "classifier sees another class while the judge still sees the first; 95 % intervals. PairedDenoiser it, as many "
        "uniform draws from the same balls, which cost a third. Prompts share their seeds, so the intervals are, if "
        "anything, too narrow.\n\n" + table(["class", "images", *(f"tau {tau:g}" for tau in settings.radii)], rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=16, help="seeds for each prompt")
    measure(parser.parse_args().count)


if __name__ == "__main__":
    main()
