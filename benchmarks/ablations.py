"""What the DOODL paper only asserts, measured: `python benchmarks/ablations.py`.

Vocabulary expansion from the seed's own noise, towards each of the eight shapes that no caption
names: how often the judge sees the wanted shape, how often another shape than in the plain image of
the same seed, the loss, and the network passes spent. Each row changes one thing of the first
(those that say so, more), which is the paper's DOODL but for its rate (100, not 0.05), its clip
(0.01, not 0.001), its iterations (10, not 50) and its T (20).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

import chainrule
from base import machine, publish, table, use_preset
from chainrule import invert
from chainrule.bundled import SCENES
from chainrule.losses import Classifier, ImageClassifier, load_classifier
from chainrule.losses.classifier import binary_cross_entropy, cross_entropy
from chainrule.methods import DOODL, Adam, Momentum, OneStepGuidance, Plain, Result, Task
from chainrule.runs import count_passes
from chainrule.scenes.base import HIDDEN_SHAPES, SHAPES
from chainrule.scenes.judge import load_judge
from contest import (
    Case,
    Contender,
    Contest,
    Made,
    average_groups,
    make_options,
    optimise_from,
    tabulate_differences,
)
from vocabulary import make_cases

BASE = DOODL(iterations=10, steps=20, optimiser=Momentum(rate=100.0, clip=1e-2), crops=4)
FIRST_SEED = 20_000


def vary(name: str, **changes: object) -> Contender:
    """The first row with something changed."""
    return Contender(name, BASE.model_copy(update=changes))


def vary_momentum(**changes: object) -> Momentum:
    """The first row's optimiser with something changed."""
    return Momentum(rate=100.0, clip=1e-2).model_copy(update=changes)


def by_cross_entropy(task: Task, method: DOODL) -> Result:
    """DOODL with another objective of the same classifier."""
    wanted = task.require_loss()
    if not isinstance(wanted, Classifier):
        raise TypeError("only a classifier has an objective")
    return method(replace(task, loss=replace(wanted, objective=cross_entropy)))


def after_one_step(task: Task, method: DOODL, scale: float) -> Result:
    """DOODL from the inversion of what one-step guidance made."""
    made = OneStepGuidance(scale=scale, steps=method.steps)(task)
    times = task.model.schedule.times(method.steps)
    with torch.no_grad():
        state = invert(task.denoiser, made.latents, times, solver=method.solver)
    return optimise_from(task, method, state)


PLAIN = Contender("plain", Plain(steps=BASE.steps))
FIRST = vary("as in the paper, but with larger steps")
UNCLIPPED = vary_momentum(clip=None)
VARIANTS = (
    FIRST,
    vary("DDIM with Checkpoint, not EDICT", mix=None),
    vary("DDIM with Checkpoint, twice the iterations", mix=None, iterations=20),
    vary(
        "DDIM, twice the iterations, no clip",
        mix=None,
        iterations=20,
        optimiser=UNCLIPPED,
    ),
    vary(
        "DDIM, four times the iterations, no clip",
        mix=None,
        iterations=40,
        optimiser=UNCLIPPED,
    ),
    vary("not renormalised", renormalise=False),
    vary("each of the pair by its own gradient", average=False),
    vary("no momentum", optimiser=vary_momentum(momentum=0.0)),
    vary("no clip", optimiser=UNCLIPPED),
    vary("the paper's clip, 0.001", optimiser=vary_momentum(clip=1e-3)),
    vary("no noise", perturbation=0.0),
    vary("noise of the code, 0.0001", perturbation=1e-4),
    vary("no crops", crops=0),
    vary("16 crops", crops=16),
    vary("p = 0.99", mix=0.99),
    vary("Adam 0.05, not momentum", optimiser=Adam(rate=0.05)),
    Contender("cross-entropy, not binary", by_cross_entropy, {"method": BASE}),
    Contender(
        "from what one-step guidance made, p = 0.99",
        after_one_step,
        {
            "method": BASE.model_copy(update={"mix": 0.99}),
            "scale": use_preset(OneStepGuidance, "tuned").scale,
        },
    ),
)


@torch.no_grad()
def judge_images(
    judge: ImageClassifier,
    guide: ImageClassifier,
    made: Made,
    asked: list[Case],
    shapes: Sequence[str] = HIDDEN_SHAPES,
) -> tuple[np.ndarray, ...]:
    """What came of the cases of `vocabulary.make_cases`.

    Args:
        judge: The judge.
        guide: The guide.
        made: The images.
        asked: The cases.
        shapes: The classes.

    Returns:
        What the judge sees, whether it is the wanted shape, and the guide's loss, each
        (cases, seeds).
    """
    seen, right, losses = [], [], []
    images = made.images.split([len(case.seeds) for case in asked])
    for i, batch in enumerate(images):
        wanted = SHAPES.index(shapes[i % len(shapes)])
        seen.append(judge(batch).argmax(dim=1))
        right.append((seen[-1] == wanted).float())
        losses.append(binary_cross_entropy(guide(batch), wanted))
    return tuple(torch.stack(values).numpy() for values in (seen, right, losses))


def main(argv: Sequence[str] | None = None) -> None:
    toy = ["plain", "as in the paper", "cross-entropy", "from what"]
    options = make_options(__doc__, "ablations", tune=False, only=toy)
    help_ = "for each class, shared out among the prompts"
    options.add("--seeds", type=int, default=4, toy=2, help=help_)
    options.add("--classes", type=int, default=len(HIDDEN_SHAPES), toy=1)
    arguments = options.parse(argv)
    judge, guide = load_judge(), load_classifier()
    model, passes = count_passes(chainrule.load())
    weights = [SCENES.pipeline, SCENES.classifier]
    contest = Contest(passes, arguments.work, weights, toy=arguments.toy)
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    shapes = HIDDEN_SHAPES[: arguments.classes]
    asked = make_cases(model, guide, seeds, len(seeds), shapes=shapes)
    played = contest.play((PLAIN, *VARIANTS), asked, arguments.only)
    if PLAIN not in played:
        raise SystemExit("the plain images are missing: run with --only plain first")
    verdicts = {c: judge_images(judge, guide, made, asked, shapes) for c, made in played.items()}
    changed = {c: (seen != verdicts[PLAIN][0]) * 1.0 for c, (seen, _, _) in verdicts.items()}
    rows = []
    for c, (_, right, loss) in verdicts.items():
        shares = map(average_groups, (right, changed[c], loss))
        rows.append([c.name, *shares, *played[c].costs])
    rights, losses = ({c: verdict[i] for c, verdict in verdicts.items()} for i in (1, 2))
    questions = [(contender, FIRST) for contender in VARIANTS[1:]]
    header = ["variant", "judge", "another shape", "loss", "network passes", "s per image"]
    text = [
        "## Ablations of DOODL",
        f"`python benchmarks/ablations.py --seeds {len(seeds)}` on {machine()}. Eight classes, "
        f"{len(seeds)} seeds from {FIRST_SEED}, no search for a start; 95 % intervals over classes "
        "and prompts; a network pass is one guidance pair, forwards or backwards.",
        table(header, rows),
        "Success, paired:",
        tabulate_differences(rights, questions),
        "Loss, paired (lower is better):",
        tabulate_differences(losses, questions),
    ]
    publish("ablations", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
