"""This very thing in another place, DOODL's Table S3: `python benchmarks/personalisation.py`.

Section 5.4 of the paper. Four things that no caption can name, each shown in one picture, on a
white background; four contexts that call it "a red shape" (or whatever its colour is); six seeds:
96 images a method, as in the paper. The exact judge says whether the context is right (colours,
background, the other thing and where it stands), and another network which shape the thing has: the
right one among its first two guesses (lenient), its first guess (right), with a probability above
0.9 (strict). An image counts if both are right. The pairs of thing and context are resampled for
the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

import chainrule
from base import machine, publish, table, use_preset
from chainrule.bundled import SCENES
from chainrule.images import from_pil
from chainrule.losses import Clip, ClipImage, load_clip
from chainrule.methods import Hybrid, Task
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.scenes.base import SHAPES, Scene, Thing, render
from chainrule.scenes.judge import check, isolate, load_judge, probabilities
from contest import (
    Case,
    Contender,
    Contest,
    Made,
    Rivals,
    average_groups,
    count_equal_draws,
    make_options,
    tabulate_differences,
)

SEEDS, TUNING_SEEDS = 6, 3
THINGS = (("star", "red"), ("heart", "pink"), ("moon", "yellow"), ("arrow", "green"))
TUNING_THINGS = (("cross", "orange"), ("diamond", "cyan"))
LEVELS = ("lenient", "right", "strict")

RIVALS = Rivals("image")
BUDGET = count_equal_draws(RIVALS.tuned) * RIVALS.steps
"""The network passes that DOODL costs; the hybrid's looks at images are counted besides."""
HYBRID = Contender(
    "hybrid", use_preset(Hybrid, "tuned", "image").model_copy(update={"budget": BUDGET})
)
CONTENDERS = (*RIVALS.all, HYBRID)
QUESTIONS = (*RIVALS.questions, *((HYBRID, other) for other in RIVALS.all))
TUNING = (
    *(RIVALS.one_step_at(scale) for scale in (10.0, 30.0, 100.0, 300.0)),
    *(
        RIVALS.doodl_from(*settings)
        for settings in (
            (1, 25, 0.05, 0),
            (1, 25, 0.01, 0),
            (16, 20, 0.01, 0),
            (46, 10, 0.01, 0),
        )
    ),
)
"""The ways of DOODL cost the same."""

Wanted = tuple[str, str, Scene]
"""A thing's shape and colour, and where it is wanted."""


def make_contexts(shape: str, colour: str) -> list[Scene]:
    """Where the thing is wanted: on two other backgrounds, and beside two other things."""
    alone = Thing(shape, colour, 32, 32, 20)
    left, above = Thing(shape, colour, 16, 32, 12), Thing(shape, colour, 32, 16, 12)
    circle, square = Thing("circle", "blue", 48, 32, 12), Thing("square", "purple", 32, 48, 12)
    return [
        Scene((alone,), "black"),
        Scene((alone,), "gray"),
        Scene((left, circle), "white", relation="left of"),
        Scene((above, square), "black", relation="above"),
    ]


def draw_thing(shape: str, colour: str) -> Tensor:
    """The one picture of the thing, (3, 64, 64)."""
    return from_pil([render(Scene((Thing(shape, colour, 32, 32, 20),), "white"))])[0]


def make_wanted(tune: bool, things: int | None) -> list[Wanted]:
    """What is wanted of the first things (None: of all)."""
    known = (TUNING_THINGS if tune else THINGS)[:things]
    return [(*thing, scene) for thing in known for scene in make_contexts(*thing)]


def make_cases(
    model: Model, clip: Clip, wanted: Sequence[Wanted], seeds: tuple[int, ...]
) -> list[Case]:
    """One for each thing and context."""
    return [
        Case(
            f"{shape}, {scene.caption}, {seeds[0]}-{len(seeds)}",
            seeds,
            partial(_make_task, model, clip, scene.caption, draw_thing(shape, colour), seeds),
        )
        for shape, colour, scene in wanted
    ]


def _make_task(
    model: Model, clip: Clip, prompt: str, shown: Tensor, seeds: tuple[int, ...]
) -> Task:
    return Task(model, model.denoiser(prompt), seeds, ClipImage(clip, [shown]))


@torch.no_grad()
def judge_images(made: Made, wanted: Sequence[Wanted]) -> dict[str, np.ndarray]:
    """For each level, and for the context alone, whether each image is right, (cases, seeds)."""
    judge, found = load_judge(), []
    images = made.images.unflatten(0, (len(wanted), -1))
    for (shape, colour, scene), row in zip(wanted, images, strict=True):
        context = torch.tensor([check(judge, scene, image).right for image in row])
        seen = probabilities(judge, torch.stack([isolate(image, colour) for image in row]))
        p = seen[:, SHAPES.index(shape)]
        ahead = (seen > p[:, None]).sum(dim=1)
        entity = torch.stack([ahead < 2, ahead < 1, p > 0.9])
        found.append(torch.cat([context[None], entity & context]))
    values = torch.stack(found).numpy().astype(float)
    return {name: values[:, i] for i, name in enumerate(("context", *LEVELS))}


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "personalisation", only=["plain", "DOODL"])
    options.add("--things", type=int, default=None, toy=1, help="how many of them")
    options.add("--seeds", type=int, default=None, toy=1, help="for each thing and context")
    arguments = options.parse(argv)
    tune, clip = arguments.tune, load_clip()
    first, count = (10_000, TUNING_SEEDS) if tune else (0, SEEDS)
    count = arguments.seeds or count
    wanted = make_wanted(tune, arguments.things)
    model, passes = count_passes(chainrule.load())
    weights = [SCENES.pipeline, SCENES.clip]
    contest = Contest(passes, arguments.work, weights, toy=arguments.toy)
    cases = make_cases(model, clip, wanted, tuple(range(first, first + count)))
    played = contest.play(TUNING if tune else CONTENDERS, cases, arguments.only)
    verdicts = {contender: judge_images(made, wanted) for contender, made in played.items()}
    rows = []
    for contender, verdict in verdicts.items():
        shares = map(average_groups, verdict.values())
        rows.append([contender.name, verdict["context"].size, *shares, *played[contender].costs])
    header = ["method", "images", "context"]
    header += [f"thing and context, {level}" for level in LEVELS]
    text = [
        f"## Personalisation{', choosing on other things and seeds' if tune else ''}",
        f"`python benchmarks/personalisation.py{' --tune' if tune else ''}` on {machine()}. "
        f"{len(wanted) // 4} things, 4 contexts, {count} seeds; 95 % intervals over the pairs of "
        "thing and context; a network pass is one guidance pair, forwards or backwards.",
        table([*header, "network passes", "s per image"], rows),
    ]
    if not tune:
        for level in LEVELS:
            values = {contender: verdict[level] for contender, verdict in verdicts.items()}
            text += [f"Paired, {level}:", tabulate_differences(values, QUESTIONS)]
    name = "personalisation-tuning" if tune else "personalisation"
    publish(name, "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
