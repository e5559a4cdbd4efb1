"""This very thing in another place, DOODL's section 5.4 and Table S3: `python benchmarks/personalisation.py`.

Four things that no caption can name, each shown in one picture, on a white background; four contexts that call it "a
red shape" (or whatever its colour is); six seeds: 96 images a method, as in the paper. The exact judge says whether the
context is right (colours, background, the other thing and where it stands), and another network which shape the thing
has: the right one among its first two guesses (lenient), its first guess (right), with a probability above 0.9
(strict). An image counts if both are right. The pairs of thing and context are add_jumps for the intervals.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule import bundled
from chainrule.losses import ClipImage, load_clip
from chainrule.losses.clip import Clip
from chainrule.methods import Task
from chainrule.methods.presets import preset
from chainrule.models import Model
from chainrule.pictures import from_pil
from chainrule.scenes.base import SHAPES, Scene, Thing, render
from chainrule.scenes.judge import check, isolate, load_judge, probabilities
from contest import Case, Contest, Made, Rivals, differences, options, over_groups

SEEDS, TUNING_SEEDS = 6, 3
THINGS = (("star", "red"), ("heart", "pink"), ("moon", "yellow"), ("arrow", "green"))
TUNING_THINGS = (("cross", "orange"), ("diamond", "cyan"))
LEVELS = ("lenient", "right", "strict")

RIVALS = Rivals(preset("tuned", "image"))
TUNING = (
    *(RIVALS.one_step_at(scale) for scale in (10.0, 30.0, 100.0, 300.0)),
    *(
        RIVALS.doodl_from(*chosen)
        for chosen in ((1, 25, 0.05, 0), (1, 25, 0.01, 0), (16, 20, 0.01, 0), (46, 10, 0.01, 0))
    ),
)
"""The ways of DOODL cost the same."""


def contexts(shape: str, colour: str) -> list[Scene]:
    """Where the thing is wanted: on two other backgrounds, and beside two other things."""
    alone = Thing(shape, colour, 32, 32, 20)
    left, above = Thing(shape, colour, 16, 32, 12), Thing(shape, colour, 32, 16, 12)
    return [
        Scene((alone,), "black"),
        Scene((alone,), "gray"),
        Scene((left, Thing("circle", "blue", 48, 32, 12)), "white", relation="left of"),
        Scene((above, Thing("square", "purple", 32, 48, 12)), "black", relation="above"),
    ]


def picture(shape: str, colour: str) -> Tensor:
    """The one picture of the thing, (3, 64, 64)."""
    return from_pil([render(Scene((Thing(shape, colour, 32, 32, 20),), "white"))])[0]


def wanted(tune: bool) -> list[tuple[str, str, Scene]]:
    things = TUNING_THINGS if tune else THINGS
    return [(shape, colour, scene) for shape, colour in things for scene in contexts(shape, colour)]


def cases(model: Model, clip: Clip, tune: bool) -> list[Case]:
    """One for each thing and context."""
    seeds = tuple(range(10_000, 10_000 + TUNING_SEEDS)) if tune else tuple(range(SEEDS))
    return [
        Case(
            f"{shape}, {scene.caption}, {seeds[0]}-{len(seeds)}",
            seeds,
            partial(_task, model, clip, scene.caption, picture(shape, colour), seeds),
        )
        for shape, colour, scene in wanted(tune)
    ]


def _task(model: Model, clip: Clip, prompt: str, shown: Tensor, seeds: tuple[int, ...]) -> Task:
    return Task(model, model.denoiser(prompt), seeds, ClipImage(clip, [shown]))


@torch.no_grad()
def loss_and_gradient(made: Made, tune: bool) -> dict[str, np.ndarray]:
    """For each level, and for the context alone, whether each image is right, (cases, seeds)."""
    judge, found = load_judge(), []
    asked = wanted(tune)
    for (shape, colour, scene), images in zip(asked, made.images.unflatten(0, (len(asked), -1)), strict=True):
        context = torch.tensor([check(judge, scene, image).right for image in images])
        seen = probabilities(judge, torch.stack([isolate(image, colour) for image in images]))
        p = seen[:, SHAPES.index(shape)]
        entity = torch.stack([(seen > p[:, None]).sum(dim=1) < 2, (seen > p[:, None]).sum(dim=1) < 1, p > 0.9])
        found.append(torch.cat([context[None], entity & context]))
    values = torch.stack(found).numpy().astype(float)
    return {name: values[:, i] for i, name in enumerate(("context", *LEVELS))}


def main() -> None:
    arguments = options(__doc__, "personalisation").parse_args()
    tune = arguments.tune
    model, clip = chainrule.load(), load_clip()
    contest = Contest(model, arguments.work, [bundled.PIPELINE, bundled.CLIP])
    played = contest.play(TUNING if tune else RIVALS.all, cases(model, clip, tune), arguments.only)
    verdicts = {contender: loss_and_gradient(made, tune) for contender, made in played.items()}
    rows = [
        [contender.name, verdict["context"].size, *map(over_groups, verdict.values()), *played[contender].costs]
        for contender, verdict in verdicts.items()
    ]
    header = ["method", "images", "context", *(f"thing and context, {level}" for level in LEVELS)]
    text = [
        f"## Personalisation{', choosing on other things and seeds' if tune else ''}",
        f"`python benchmarks/personalisation.py{' --tune' if tune else ''}` on {machine()}. "
        f"{len(TUNING_THINGS if tune else THINGS)} things, 4 contexts, {TUNING_SEEDS if tune else SEEDS} seeds; 95 % "
        "intervals over the pairs of thing and context; a network pass is one guidance pair, forwards or backwards.",
        table([*header, "network passes", "s per image"], rows),
    ]
    if not tune:
        for level in LEVELS:
            values = {contender: verdict[level] for contender, verdict in verdicts.items()}
            text += [f"Paired, {level}:", differences(values, RIVALS.questions)]
    publish("personalisation-tuning" if tune else "personalisation", "\n\n".join(text))


if __name__ == "__main__":
    main()
