"""More beautiful photos, DOODL's Figure 8 on the bundled world: `python benchmarks/beauty.py`.

96 pictures that training never drew are inverted without a prompt and edited towards the highest
rating of the bundled rater, which has learnt it from CLIP's embedding. The judges are exact or
untouched: the definition of the rating itself (`chainrule.scenes.rating`), and whether all that was
to stay has stayed: the background, the number of things, and their shapes as another network sees
them; colours may change, because their harmony is part of the rating. An edit succeeds if
everything stayed and the rating rose: by anything (lenient), by 0.1 (right), by 0.25 (strict). The
distance is that of the judge's features. One-step guidance starts at T/2, as in the paper, with two
scales; best of N adds to the inversion's pair as much noise as DOODL's way is long. All was chosen
on other pictures (`--tune`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

import chainrule
from base import machine, publish, table, use_preset
from chainrule.bundled import SCENES
from chainrule.images import from_pil
from chainrule.losses import Aesthetic, ImageClassifier, Rater, Target, load_rater
from chainrule.methods import (
    DOODL,
    Adam,
    Method,
    OneStepGuidance,
    Photo,
    Reconstruction,
    Result,
    Task,
)
from chainrule.methods.best_of import choose_best
from chainrule.methods.chains import generate, invert_photos
from chainrule.methods.chunking import finish
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.scenes.base import render, sample_scene
from chainrule.scenes.judge import isolate, load_judge, read
from chainrule.scenes.rating import rate
from contest import (
    Case,
    Contender,
    Contest,
    Made,
    average_groups,
    make_options,
    tabulate_differences,
)

TUNED = use_preset(DOODL, "tuned", "aesthetic", photo=True)
ONE_STEP = use_preset(OneStepGuidance, "tuned", "aesthetic", photo=True)
BACK = Contender("reconstruction", use_preset(Reconstruction, "tuned", "aesthetic", photo=True))
RISES = {"lenient": 0.0, "right": 0.1, "strict": 0.25}
NEARBY = 1 << 22
"""The first draw of the noise that best of N adds."""


def search_nearby(task: Task, count: int, radius: float, method: DOODL) -> Result:
    """The best of the photos' reconstruction and of images of noise near their inversion.

    Args:
        task: Whose photos; its loss says what is best.
        count: How many images there are besides the reconstruction.
        radius: How much noise is added.
        method: Whose chain they are drawn by.
    """
    solver, steps = method.solver, method.steps
    state = invert_photos(task, steps=steps, solver=solver)
    noise = [task.noise.normal(NEARBY + i, state[0].shape[1:]).to(state[0]) for i in range(count)]
    moves = [0.0 * state[0], *(radius * each for each in noise)]
    starts = [tuple(x + move for x in state) for move in moves]
    made = [finish(task, generate(task, start, steps, solver=solver)) for start in starts]
    return choose_best(made, task.require_loss())


def ask_for_photo(task: Task, method: Method, weight: float) -> Result:
    """A method, with a term that asks for the photo itself.

    As `--loss aesthetic=10 --loss WEIGHT*picture=PHOTO`.
    """
    loss = task.require_loss() + weight * Target(task.require_photo().images)
    result: Result = method(replace(task, loss=loss))
    return result


def make_contender(name: str, method: Method, weight: float) -> Contender:
    if not weight:
        return Contender(name, method)
    settings = {"method": method, "weight": weight}
    return Contender(f"{name}, photo {weight:g}", ask_for_photo, settings)


def search_at_cost_of(method: DOODL) -> Contender:
    """The best of as many images of the same length as DOODL's iterations cost."""
    count = 3 * method.iterations
    settings = {"count": count, "radius": 0.2, "method": method}
    return Contender(f"best of {count} nearby", search_nearby, settings)


def one_step_at(scale: float, weight: float = 0.0) -> Contender:
    method = ONE_STEP.model_copy(update={"scale": scale})
    return make_contender(f"one-step, scale {scale:g}", method, weight)


def doodl_at(rate: float, weight: float = 0.0) -> Contender:
    method = TUNED.model_copy(update={"optimiser": Adam(rate=rate)})
    return make_contender(f"DOODL Adam {rate}", method, weight)


ONE_STEPS = (one_step_at(ONE_STEP.scale), one_step_at(100.0))
"""The scale with the most edits that are right by the lenient level, and by the middle one."""
BEST_OF = search_at_cost_of(TUNED)
BY_DOODL = Contender("DOODL tuned", TUNED)
CONTENDERS = (BACK, *ONE_STEPS, BEST_OF, BY_DOODL)
QUESTIONS = tuple((BY_DOODL, other) for other in (BACK, *ONE_STEPS, BEST_OF))
TUNING = (
    *(one_step_at(scale) for scale in (10.0, 30.0, 100.0, 300.0)),
    *(one_step_at(scale, 30.0) for scale in (30.0, 100.0)),
    *(doodl_at(rate) for rate in (0.002, 0.005, 0.01, 0.02, 0.05)),
    *(doodl_at(rate, weight) for rate, weight in ((0.01, 30.0), (0.02, 30.0))),
)


def draw_photos(seeds: Sequence[int]) -> Tensor:
    """Pictures of the bundled world, (B, 3, 64, 64)."""
    return from_pil([render(sample_scene(seed)) for seed in seeds])


def make_cases(model: Model, rater: Rater, seeds: range, size: int) -> list[Case]:
    """The photos of the scenes' seeds, `size` at a time."""
    batches = [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
    return [
        Case(f"photos-{some[0]}-{len(some)}", some, partial(_make_task, model, rater, some))
        for some in batches
    ]


def _make_task(model: Model, rater: Rater, seeds: tuple[int, ...]) -> Task:
    alone = model.denoiser("", guidance_scale=1.0)
    photo = Photo(draw_photos(seeds), alone, (64, 64))
    return Task(model, alone, seeds, Aesthetic(rater, 10.0), photo)


def has_stayed(judge: ImageClassifier, photo: Tensor, image: Tensor) -> bool:
    """Whether an image shows as many things as a photo, of its shapes, on its background."""
    before, after = (describe(judge, each) for each in (photo, image))
    return before == after


def describe(judge: ImageClassifier, image: Tensor) -> tuple[str, list[int]]:
    """The background, and the shapes of the things in order."""
    reading = read(image)
    if not reading.things:
        return reading.background, []
    alone = torch.stack([isolate(image, thing.colour) for thing in reading.things])
    return reading.background, sorted(judge(alone).argmax(dim=1).tolist())


@torch.no_grad()
def judge_edits(judge: ImageClassifier, made: Made, photos: Tensor) -> dict[str, np.ndarray]:
    """What is measured of each photo's edit, (photos,)."""
    pairs = list(zip(photos, made.images, strict=True))
    stayed = np.array([has_stayed(judge, p, i) for p, i in pairs])
    rise = np.array([rate(i) - rate(p) for p, i in pairs])
    network = judge.network.network.convnext  # type: ignore[attr-defined]
    features = [network(images * 2 - 1).pooler_output for images in (photos, made.images)]
    distance = (features[0] - features[1]).norm(dim=1) / features[0].norm(dim=1)
    found = {
        "kept": stayed.astype(float),
        "rise of the rating": rise,
        "distance": distance.numpy(),
    }
    levels = {level: (stayed & (rise > least)).astype(float) for level, least in RISES.items()}
    return found | levels


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "beauty")
    options.add("--photos", type=int, default=96, toy=2)
    options.add("--batch", type=int, default=16, toy=2)
    arguments = options.parse(argv)
    tune, count = arguments.tune, arguments.photos
    rater, judge = load_rater(), load_judge()
    model, passes = count_passes(chainrule.load())
    first = 10_000 if tune else 0
    seeds = range(first, first + count)
    weights = [SCENES.pipeline, SCENES.clip, SCENES.rater]
    contest = Contest(passes, arguments.work, weights, toy=arguments.toy)
    asked = make_cases(model, rater, seeds, arguments.batch)
    played = contest.play(TUNING if tune else CONTENDERS, asked, arguments.only)
    photos = draw_photos(seeds)
    verdicts = {contender: judge_edits(judge, made, photos) for contender, made in played.items()}
    rows = [
        [contender.name, *map(average_groups, verdict.values()), *played[contender].costs]
        for contender, verdict in verdicts.items()
    ]
    header = ["method", "kept", "rise of the rating", "distance", *RISES]
    command = f"python benchmarks/beauty.py --photos {count}{' --tune' if tune else ''}"
    text = [
        f"## Editing photos{', choosing on other photos' if tune else ''}",
        f"`{command}` on {machine()}. {count} pictures with seeds from {first}; 95 % intervals "
        "over pictures; without a prompt a network pass is half of a guidance pair.",
        table([*header, "network passes", "s per image"], rows),
    ]
    if not tune:
        for level in RISES:
            values = {contender: verdict[level] for contender, verdict in verdicts.items()}
            text += [f"Paired, {level}:", tabulate_differences(values, QUESTIONS)]
    publish("beauty-tuning" if tune else "beauty", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
