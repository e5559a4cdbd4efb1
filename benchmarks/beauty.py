"""More beautiful photos, DOODL's Figure 8 on the bundled world: `python benchmarks/beauty.py`.

96 pictures that training never drew are invert_photos without a prompt and edited towards the highest rating of the bundled
rater, which has learnt it from CLIP's embedding. The judges are exact or untouched: the definition of the rating itself
(`chainrule.scenes.rating`), and whether all that was to stay has stayed: the background, the number of things, and
their shapes as another network sees them; colours may change, because their harmony is part of the rating. An edit
succeeds if everything stayed and the rating rose: by anything (lenient), by 0.1 (right), by 0.25 (strict). The distance
is that of the judge's features. One-step guidance starts at T/2, as in the paper, with two scales; best of N adds to
the inversion's pair as much noise as DOODL's way is long. All was chosen on other pictures (`--tune`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule import bundled
from chainrule.losses import Aesthetic, Rater, Target, load_rater
from chainrule.losses.classifier import ImageClassifier
from chainrule.methods import Adam, Doodl, Photo, Result, Task, best, doodl, one_step_edit, reconstruction
from chainrule.methods.base import generate, invert_photos
from chainrule.methods.presets import preset
from chainrule.models import Model
from chainrule.pictures import from_pil
from chainrule.scenes.base import render, sample_scene
from chainrule.scenes.judge import isolate, load_judge, read
from chainrule.scenes.rating import rate
from contest import Case, Contender, Contest, Made, differences, options, over_groups

TUNED = preset("tuned", "aesthetic", photo=True)
STEPS, STEP = TUNED.doodl.steps, TUNED.doodl.step
RISES = {"lenient": 0.0, "right": 0.1, "strict": 0.25}
NEARBY = 1 << 22
"""The first draw of the noise that best of N adds."""


def nearby(task: Task, count: int, radius: float) -> Result:
    """The best of the photos' reconstruction and `count` images of noise near their inversion, by the task's loss."""
    state = invert_photos(task, steps=STEPS, solver=STEP)
    noise = [task.noise.normal(NEARBY + i, state[0].shape[1:]) for i in range(count)]
    moves = [0.0 * state[0], *(radius * each for each in noise)]
    made = [generate(task, task.denoiser, tuple(x + move for x in state), STEPS, solver=STEP) for move in moves]
    return best(made, task.wanted())


def near(task: Task, weight: float) -> Task:
    """The task, with a term that asks for the photo itself: `--loss aesthetic=10 --loss WEIGHT*picture=PHOTO`."""
    return replace(task, loss=task.wanted() + weight * Target(task.edited().images))


def doodl_near(task: Task, settings: Doodl, weight: float) -> Result:
    return doodl(near(task, weight), settings)


def one_step_near(task: Task, scale: float, weight: float) -> Result:
    return one_step_edit(near(task, weight), scale=scale, steps=STEPS, solver=STEP)


def one_step_at(scale: float, weight: float = 0.0) -> Contender:
    name = f"one-step, scale {scale:g}"
    if weight:
        return Contender(f"{name}, photo {weight:g}", one_step_near, {"scale": scale, "weight": weight})
    return Contender(name, one_step_edit, {"scale": scale, "steps": STEPS, "step": STEP})


def doodl_at(rate: float, weight: float = 0.0) -> Contender:
    settings = TUNED.doodl.model_copy(update={"optimiser": Adam(rate=rate)})
    if weight:
        return Contender(f"DOODL Adam {rate}, photo {weight:g}", doodl_near, {"settings": settings, "weight": weight})
    return Contender(f"DOODL Adam {rate}", doodl, {"settings": settings})


def cost(settings: Doodl) -> int:
    """How many images of the same length DOODL's iterations cost."""
    return 3 * settings.iterations


BACK = Contender("reconstruction", reconstruction, {"steps": STEPS, "step": STEP})
ONE_STEPS = (one_step_at(TUNED.one_step_scale), one_step_at(100.0))
"""The scale with the most edits that are right by the lenient level, and by the middle one."""
BEST_OF = Contender(f"best of {cost(TUNED.doodl)} nearby", nearby, {"count": cost(TUNED.doodl), "radius": 0.2})
DOODL = Contender("DOODL tuned", doodl, {"settings": TUNED.doodl})
CONTENDERS = (BACK, *ONE_STEPS, BEST_OF, DOODL)
QUESTIONS = tuple((DOODL, other) for other in (BACK, *ONE_STEPS, BEST_OF))
TUNING = (
    *(one_step_at(scale) for scale in (10.0, 30.0, 100.0, 300.0)),
    *(one_step_at(scale, 30.0) for scale in (30.0, 100.0)),
    *(doodl_at(rate) for rate in (0.002, 0.005, 0.01, 0.02, 0.05)),
    *(doodl_at(rate, weight) for rate, weight in ((0.01, 30.0), (0.02, 30.0))),
)


def cases(model: Model, rater: Rater, first: int, count: int, size: int) -> list[Case]:
    """`count` photos from the scene seed `first`, `size` at a time."""
    batches = [tuple(range(start, min(start + size, first + count))) for start in range(first, first + count, size)]
    return [Case(f"photos-{seeds[0]}-{len(seeds)}", seeds, partial(_task, model, rater, seeds)) for seeds in batches]


def _task(model: Model, rater: Rater, seeds: tuple[int, ...]) -> Task:
    images, alone = from_pil([render(sample_scene(seed)) for seed in seeds]), model.denoiser("", guidance_scale=1.0)
    return Task(model, alone, seeds, Aesthetic(rater, 10.0), Photo(images, alone, (64, 64)))


def kept(judge: ImageClassifier, photo: Tensor, image: Tensor) -> bool:
    """Whether `image` still shows as many things as `photo`, of the same shapes, on the same background."""
    before, after = (shown(judge, each) for each in (photo, image))
    return before == after


def shown(judge: ImageClassifier, image: Tensor) -> tuple[str, list[int]]:
    """The background, and the shapes of the things in order."""
    reading = read(image)
    if not reading.things:
        return reading.background, []
    alone = torch.stack([isolate(image, thing.colour) for thing in reading.things])
    return reading.background, sorted(judge(alone).argmax(dim=1).tolist())


@torch.no_grad()
def loss_and_gradient(judge: ImageClassifier, made: Made, photos: Tensor) -> dict[str, np.ndarray]:
    """What is measured of each photo's edit, (photos,)."""
    stayed = np.array([kept(judge, p, i) for p, i in zip(photos, made.images, strict=True)])
    rise = np.array([rate(i) - rate(p) for p, i in zip(photos, made.images, strict=True)])
    network = judge.network.network.convnext  # type: ignore[attr-defined]
    features = [network(images * 2 - 1).pooler_output for images in (photos, made.images)]
    distance = (features[0] - features[1]).norm(dim=1) / features[0].norm(dim=1)
    found = {"kept": stayed.astype(float), "rise of the rating": rise, "distance": distance.numpy()}
    return found | {level: (stayed & (rise > least)).astype(float) for level, least in RISES.items()}


def main() -> None:
    parser = options(__doc__, "beauty")
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    model, rater, judge = chainrule.load(), load_rater(), load_judge()
    first = 10_000 if arguments.tune else 0
    contest = Contest(model, arguments.work, [bundled.PIPELINE, bundled.CLIP, bundled.RATER])
    asked = cases(model, rater, first, arguments.photos, arguments.batch)
    played = contest.play(TUNING if arguments.tune else CONTENDERS, asked, arguments.only)
    photos = from_pil([render(sample_scene(seed)) for seed in range(first, first + arguments.photos)])
    verdicts = {contender: loss_and_gradient(judge, made, photos) for contender, made in played.items()}
    rows = [
        [contender.name, *map(over_groups, verdict.values()), *played[contender].costs]
        for contender, verdict in verdicts.items()
    ]
    header = ["method", "kept", "rise of the rating", "distance", *RISES, "network passes", "s per image"]
    text = [
        f"## Editing photos{', choosing on other photos' if arguments.tune else ''}",
        f"`python benchmarks/beauty.py --photos {arguments.photos}{' --tune' if arguments.tune else ''}` on "
        f"{machine()}. {arguments.photos} pictures with seeds from {first}; 95 % intervals over pictures; without a "
        "prompt a network pass is half of a guidance pair.",
        table(header, rows),
    ]
    if not arguments.tune:
        for level in RISES:
            text += [f"Paired, {level}:", differences({c: v[level] for c, v in verdicts.items()}, QUESTIONS)]
    publish("beauty-tuning" if arguments.tune else "beauty", "\n\n".join(text))


if __name__ == "__main__":
    main()
