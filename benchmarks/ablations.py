"""What the DOODL paper only asserts, measured: `python benchmarks/ablations.py`.

Vocabulary expansion from the seed's own noise, towards each of the eight shapes that no caption names: how often the
judge sees the wanted shape, how often another shape than in the plain image of the same seed, the loss, and the network
passes spent. Each row changes one thing of the first (those that say so, more), which is the paper's DOODL but for its
rate (100, not 0.05), its clip (0.01, not 0.001), its iterations (10, not 50) and its T (20).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import chainrule
from base import machine, publish, table
from chainrule import bundled, invert
from chainrule.losses import Classifier, load_classifier
from chainrule.losses.classifier import ImageClassifier, binary_cross_entropy, cross_entropy
from chainrule.methods import Adam, Doodl, Momentum, Result, Task, doodl, one_step, plain
from chainrule.methods.presets import preset
from chainrule.scenes.base import HIDDEN_SHAPES, SHAPES
from chainrule.scenes.judge import load_judge
from contest import Case, Contender, Contest, Made, differences, options, over_groups
from vocabulary import cases

BASE = Doodl(iterations=10, steps=20, optimiser=Momentum(rate=100.0, clip=1e-2), crops=4)
FIRST_SEED = 20_000


def variant(name: str, **changes: object) -> Contender:
    return Contender(name, doodl, {"settings": BASE.model_copy(update=changes)})


def moved(**changes: object) -> Momentum:
    return Momentum(rate=100.0, clip=1e-2).model_copy(update=changes)


def by_cross_entropy(task: Task, settings: Doodl) -> Result:
    """DOODL with another objective of the same classifier."""
    wanted = task.wanted()
    if not isinstance(wanted, Classifier):
        raise TypeError("only a classifier has an objective")
    return doodl(replace(task, loss=replace(wanted, objective=cross_entropy)), settings)


def after_one_step(task: Task, settings: Doodl, scale: float) -> Result:
    """DOODL from the inversion of what one-step guidance made."""
    made, times = one_step(task, scale=scale, steps=settings.steps), task.model.schedule.times(settings.steps)
    with torch.no_grad():
        state = invert(task.denoiser, made.latents, times, solver=settings.solver)
    return doodl(task, settings, x_T=state)


PLAIN = Contender("plain", plain, {"steps": BASE.steps})
FIRST = variant("as in the paper, but with larger steps")
VARIANTS = (
    FIRST,
    variant("DDIM with Checkpoint, not EDICT", mix=None),
    variant("DDIM with Checkpoint, twice the iterations", mix=None, iterations=20),
    variant("DDIM, twice the iterations, no clip", mix=None, iterations=20, optimiser=moved(clip=None)),
    variant("DDIM, four times the iterations, no clip", mix=None, iterations=40, optimiser=moved(clip=None)),
    variant("not renormalised", renormalise=False),
    variant("each of the pair by its own gradient", average=False),
    variant("no momentum", optimiser=moved(momentum=0.0)),
    variant("no clip", optimiser=moved(clip=None)),
    variant("the paper's clip, 0.001", optimiser=moved(clip=1e-3)),
    variant("no noise", perturbation=0.0),
    variant("noise of the code, 0.0001", perturbation=1e-4),
    variant("no crops", crops=0),
    variant("16 crops", crops=16),
    variant("p = 0.99", mix=0.99),
    variant("Adam 0.05, not momentum", optimiser=Adam(rate=0.05)),
    Contender("cross-entropy, not binary", by_cross_entropy, {"settings": BASE}),
    Contender(
        "from what one-step guidance made, p = 0.99",
        after_one_step,
        {"settings": BASE.model_copy(update={"mix": 0.99}), "scale": preset("tuned").one_step_scale},
    ),
)


@torch.no_grad()
def loss_and_gradient(judge: ImageClassifier, guide: ImageClassifier, made: Made, asked: list[Case]) -> tuple[np.ndarray, ...]:
    """(what the judge sees, whether it is the wanted shape, the guide's loss), each (cases, seeds)."""
    seen, right, losses = [], [], []
    images = made.images.split([len(case.seeds) for case in asked])
    for i, batch in enumerate(images):
        wanted = SHAPES.index(HIDDEN_SHAPES[i % len(HIDDEN_SHAPES)])
        seen.append(judge(batch).argmax(dim=1))
        right.append((seen[-1] == wanted).float())
        losses.append(binary_cross_entropy(guide(batch), wanted))
    return tuple(torch.stack(values).numpy() for values in (seen, right, losses))


def main() -> None:
    parser = options(__doc__, "ablations", tune=False)
    parser.add_argument("--seeds", type=int, default=4, help="for each class, shared out among the prompts")
    arguments = parser.parse_args()
    model, judge, guide = chainrule.load(), load_judge(), load_classifier()
    contest = Contest(model, arguments.work, [bundled.PIPELINE, bundled.CLASSIFIER])
    asked = cases(model, guide, FIRST_SEED, arguments.seeds, arguments.seeds, None)
    played = contest.play((PLAIN, *VARIANTS), asked, arguments.only)
    if PLAIN not in played:
        raise SystemExit("the plain images are missing: run with --only plain first")
    verdicts = {contender: loss_and_gradient(judge, guide, made, asked) for contender, made in played.items()}
    changed = {contender: (seen != verdicts[PLAIN][0]) * 1.0 for contender, (seen, _, _) in verdicts.items()}
    rows = [
        [contender.name, *map(over_groups, (verdict[1], changed[contender], verdict[2])), *played[contender].costs]
        for contender, verdict in verdicts.items()
    ]
    right, losses = ({contender: verdict[i] for contender, verdict in verdicts.items()} for i in (1, 2))
    questions = [(contender, FIRST) for contender in VARIANTS[1:]]
    text = [
        "## Ablations of DOODL",
        f"`python benchmarks/ablations.py --seeds {arguments.seeds}` on {machine()}. Eight classes, "
        f"{arguments.seeds} seeds from {FIRST_SEED}, no search for a start; 95 % intervals over classes and prompts; "
        "a network pass is one guidance pair, forwards or backwards.",
        table(["variant", "judge", "another shape", "loss", "network passes", "s per image"], rows),
        "Success, paired:",
        differences(right, questions),
        "Loss, paired (lower is better):",
        differences(losses, questions),
    ]
    publish("ablations", "\n\n".join(text))


if __name__ == "__main__":
    main()
