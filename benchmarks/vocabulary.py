"""Vocabulary expansion, DOODL's Table 3 on the bundled world: `python benchmarks/vocabulary.py`.

Towards each of the eight shapes that no caption names: how often the judge (which no guidance ever touched) sees the
wanted shape, how often the guide does, and the Frechet distance in the judge's features to fresh renders of the class.
All methods share prompts and seeds. What was chosen (scale, rate, crops) was chosen on other seeds (`--tune`).

The classes share the seeds' noise, so intervals of success resample seeds, not images; those of the distance resample
classes. Differences between methods are paired. Images are kept in the work folder, under the settings and the weights
that made them, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule import bundled
from chainrule.diffusion.denoiser import Denoiser
from chainrule.losses import Classifier, load_classifier
from chainrule.losses.classifier import ImageClassifier
from chainrule.methods import Adam, Doodl, Momentum, Result, Task, best, doodl, draws, noise_aware, one_step, plain
from chainrule.methods.presets import preset
from chainrule.metrics import bootstrap, frechet_distance, wilson
from chainrule.models import Model
from chainrule.models.noise_aware import load_noise_aware
from chainrule.pictures import from_pil
from chainrule.scenes.base import HIDDEN_SHAPES, SHAPES, render, sample_scene
from chainrule.scenes.judge import load_judge
from contest import Case, Contender, Contest, Made, equal_draws, options

PROMPTS = (("red", "white"), ("blue", "gray"))
FIRST_SEED, TUNING_SEED = 0, 10_000
WANTED = torch.tensor([SHAPES.index(shape) for shape in HIDDEN_SHAPES])
TUNED, FAITHFUL = preset("tuned"), preset("faithful")
STEPS = TUNED.doodl.steps
EQUAL = equal_draws(TUNED.doodl)


def noise_aware_towards(task: Task, scale: float, steps: int) -> Result:
    """`chainrule.methods.noise_aware` towards the class that the task's classifier is asked for."""
    wanted = task.wanted()
    if not isinstance(wanted, Classifier):
        raise TypeError("noise-aware guidance is told a classifier's class")
    return noise_aware(task, energy=load_noise_aware(str(wanted.target)), scale=scale, steps=steps)


@lru_cache(maxsize=1)
def drawn(model: Model, denoiser: Denoiser, seeds: tuple[int, ...], count: int, steps: int) -> list[Result]:
    return list(draws(Task(model, denoiser, seeds), count, steps=steps))


def best_of(task: Task, count: int, steps: int) -> Result:
    """`chainrule.methods.best_of`, whose draws the classes share: only the choice depends on the class."""
    return best(drawn(task.model, task.denoiser, task.seeds, count, steps), task.wanted())


def guided(name: str, settings: Doodl, limit: int | None = None) -> Contender:
    return Contender(name, doodl, {"settings": settings}, limit)


def tuned(**changes: object) -> Doodl:
    """What tuning starts from, the best of 8 draws and 15 iterations, with `changes`: it does not follow the preset."""
    return TUNED.doodl.model_copy(update={"start_of": 8, "iterations": 15, "crops": 4, **changes})


def one_step_at(scale: float) -> Contender:
    return Contender(f"one-step, scale {scale:g}", one_step, {"scale": scale, "steps": STEPS})


def noise_aware_at(scale: float) -> Contender:
    return Contender(f"noise-aware, scale {scale:g}", noise_aware_towards, {"scale": scale, "steps": STEPS})


PLAIN = Contender("plain", plain, {"steps": STEPS})
ONE_STEP = one_step_at(TUNED.one_step_scale)
BEST_OF_START = Contender(
    f"best of {TUNED.doodl.start_of} (DOODL tuned's start)", best_of, {"count": TUNED.doodl.start_of, "steps": STEPS}
)
BEST_OF_EQUAL = Contender(f"best of {EQUAL} (the cost of DOODL tuned)", best_of, {"count": EQUAL, "steps": STEPS})
DOODL_TUNED = guided("DOODL tuned", TUNED.doodl)
DOODL_FAITHFUL = guided("DOODL faithful", FAITHFUL.doodl, limit=2)
NOISE_AWARE = noise_aware_at(300.0)
CONTENDERS = (PLAIN, ONE_STEP, NOISE_AWARE, BEST_OF_START, BEST_OF_EQUAL, DOODL_TUNED, DOODL_FAITHFUL)
QUESTIONS = (
    (ONE_STEP, PLAIN),
    (NOISE_AWARE, PLAIN),
    (DOODL_TUNED, PLAIN),
    (DOODL_TUNED, ONE_STEP),
    (DOODL_TUNED, NOISE_AWARE),
    (DOODL_TUNED, BEST_OF_START),
    (DOODL_TUNED, BEST_OF_EQUAL),
)

TUNING = (
    *(one_step_at(scale) for scale in (3.0, 10.0, 30.0, 100.0, 300.0)),
    *(noise_aware_at(scale) for scale in (10.0, 30.0, 100.0, 300.0, 1000.0)),
    *(
        guided(f"DOODL Adam {rate}, {crops} crops", tuned(optimiser=Adam(rate=rate), crops=crops))
        for rate, crops in ((0.005, 4), (0.01, 4), (0.02, 4), (0.05, 4), (0.1, 4), (0.2, 4), (0.1, 0))
    ),
    *(
        guided(
            f"DOODL start of {count}, {iterations} iterations",
            tuned(start_of=count, iterations=iterations, optimiser=Adam(rate=0.05)),
        )
        for count, iterations in ((16, 12), (32, 7))
    ),
    guided("DOODL momentum, clip 0.01", tuned(optimiser=Momentum(rate=100.0, clip=1e-2))),
)


def cases(model: Model, guide: ImageClassifier, first: int, count: int, size: int, limit: int | None) -> list[Case]:
    """`count` seeds from `first`, shared out among the prompts; the first `limit` of each's, `size` at a time.

    Each class is asked for in turn, of the same seeds. In the order of the seeds, then of the classes.
    """
    each, found = count // len(PROMPTS), []
    for i, (colour, background) in enumerate(PROMPTS):
        denoiser = model.denoiser(f"a {colour} shape on a {background} background")
        seeds = tuple(range(first + i * each, first + (i + 1) * each))[:limit]
        for start in range(0, len(seeds), size):
            some = seeds[start : start + size]
            for shape in HIDDEN_SHAPES:
                task = partial(Task, model, denoiser, some, Classifier(guide, shape))
                found.append(Case(f"{shape}-{some[0]}-{len(some)}", some, task))
    return found


@torch.no_grad()
def features(judge: ImageClassifier, images: Tensor) -> Tensor:
    """The judge's features before its last layer, (N, 128)."""
    network = judge.network.network  # type: ignore[attr-defined]
    return torch.cat([network.convnext(part * 2 - 1).pooler_output for part in images.split(256)])


@lru_cache(maxsize=len(HIDDEN_SHAPES))
def reference(judge: ImageClassifier, shape: str, count: int = 512) -> Tensor:
    """The judge's features of fresh renders of a class, in the prompts' colours and backgrounds."""
    scenes = [sample_scene(seed, shape=shape, single=True) for seed in range(count)]
    for i, scene in enumerate(scenes):
        colour, background = PROMPTS[i % len(PROMPTS)]
        scenes[i] = replace(scene, things=(replace(scene.things[0], colour=colour),), background=background)
    return features(judge, from_pil([render(scene) for scene in scenes]))


@dataclass(frozen=True)
class Outcome:
    """What became of one method: the shapes that the judge and the guide see, as indices (seeds, classes), the judge's
    features (seeds, classes, 128), the cost.
    """

    seeds: tuple[int, ...]
    by_judge: Tensor
    by_guide: Tensor
    features: Tensor
    passes: float
    seconds: float

    def select(self, seeds: tuple[int, ...]) -> Outcome:
        """The same for some of the seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return replace(
            self, seeds=seeds, by_judge=self.by_judge[rows], by_guide=self.by_guide[rows], features=self.features[rows]
        )

    @property
    def loss_and_gradient(self) -> Tensor:
        """Whether the judge sees the wanted shape, (seeds, classes)."""
        return (self.by_judge == WANTED).float()

    @property
    def guided(self) -> Tensor:
        """Whether the guide does."""
        return (self.by_guide == WANTED).float()

    def changed(self, other: Outcome) -> Tensor:
        """Where `other` did not show the wanted shape: whether this shows another shape than it does, (n,)."""
        return (self.by_judge != other.by_judge)[other.loss_and_gradient == 0].float()

    def distances(self, judge: ImageClassifier) -> np.ndarray:
        """The Frechet distance of each class to its renders."""
        return np.array(
            [frechet_distance(self.features[:, i], reference(judge, shape)) for i, shape in enumerate(HIDDEN_SHAPES)]
        )


@torch.no_grad()
def outcome(judge: ImageClassifier, guide: ImageClassifier, cases: Sequence[Case], made: Made) -> Outcome:
    """Images come in the order of the cases: batches of seeds, then classes, then seeds."""
    seeds = tuple(seed for case in cases[:: len(HIDDEN_SHAPES)] for seed in case.seeds)
    per_batch = [
        images.unflatten(0, (len(HIDDEN_SHAPES), -1))
        for images in made.images.split([len(HIDDEN_SHAPES) * len(case.seeds) for case in cases[:: len(HIDDEN_SHAPES)]])
    ]
    by_class = torch.cat(per_batch, dim=1)  # (classes, seeds, 3, H, W)
    by_judge, by_guide = (
        torch.stack([network(images).argmax(dim=1) for images in by_class], dim=1) for network in (judge, guide)
    )
    seen = torch.stack([features(judge, images) for images in by_class], dim=1)
    return Outcome(seeds, by_judge, by_guide, seen, made.passes, made.seconds)


def row(name: str, found: Outcome, judge: ImageClassifier) -> list[object]:
    by_seed, by_guide = (bootstrap(values.mean(dim=1).tolist()) for values in (found.loss_and_gradient, found.guided))
    distance = bootstrap(found.distances(judge).tolist())
    return [name, found.loss_and_gradient.numel(), by_seed, by_guide, distance, f"{found.passes:.0f}", f"{found.seconds:.1f}"]


def difference(one: Outcome, other: Outcome, judge: ImageClassifier) -> list[object]:
    """Of success (paired by seed), and of the distance (paired by class)."""
    success = (one.loss_and_gradient - other.loss_and_gradient).mean(dim=1)
    return [bootstrap(success.tolist()), bootstrap((one.distances(judge) - other.distances(judge)).tolist())]


def changes(found: Outcome, before: Outcome, contender: Contender) -> str:
    """How often a method leaves the shape that it started from."""
    values = found.changed(before)
    share = wilson(int(values.sum()), len(values))
    return (
        f"Of {len(values)} plain images of other shapes than the wanted, {contender.name} changed the shape of {share}."
    )


def main() -> None:
    parser = options(__doc__, "vocabulary")
    parser.add_argument("--seeds", type=int, default=32, help="for each class, shared out among the prompts")
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    model, judge, guide = chainrule.load(), load_judge(), load_classifier()
    first = TUNING_SEED if arguments.tune else FIRST_SEED
    contest = Contest(model, arguments.work, [bundled.PIPELINE, bundled.CLASSIFIER, bundled.NOISE_AWARE])

    def asked(contender: Contender) -> list[Case]:
        return cases(model, guide, first, arguments.seeds, arguments.batch, contender.limit)

    played = contest.play(TUNING if arguments.tune else CONTENDERS, asked, arguments.only)
    found = {contender: outcome(judge, guide, asked(contender), made) for contender, made in played.items()}
    publish(*report(found, judge, first, arguments.seeds, arguments.tune))


def report(
    found: dict[Contender, Outcome], judge: ImageClassifier, first: int, count: int, tune: bool
) -> tuple[str, str]:
    """(the section's name, its text)."""
    header = ["method", "images", "judge", "guide", "Frechet distance", "network passes", "s per image"]
    whole = {contender: each for contender, each in found.items() if len(each.seeds) == count}
    text = [
        f"## Vocabulary expansion{', choosing on other seeds' if tune else ''}",
        f"`python benchmarks/vocabulary.py --seeds {count}{' --tune' if tune else ''}` on {machine()}. Eight classes, "
        f"two prompts, seeds from {first}; 95 % intervals, of success over seeds, of the distance over classes; a "
        "network pass is one guidance pair, forwards or backwards."
        + (
            " DOODL starts at the best of 8 draws and takes 15 iterations unless its name says otherwise."
            if tune
            else ""
        ),
        table(header, [row(contender.name, each, judge) for contender, each in whole.items()]),
    ]
    for contender, few in found.items():
        if contender not in whole:
            same = {other: each.select(few.seeds) for other, each in whole.items()} | {contender: few}
            text += [
                f"On the {len(few.seeds)} seeds of {contender.name} (distances of sets of other sizes do not compare):",
                table(header, [row(other.name, each, judge) for other, each in same.items()]),
            ]
            if PLAIN in same and ONE_STEP in same:
                text += [f"{changes(few, same[PLAIN], contender)} {changes(same[ONE_STEP], same[PLAIN], ONE_STEP)}"]
    asked = [(one, other) for one, other in QUESTIONS if one in whole and other in whole]
    if asked and not tune:
        rows = [[f"{a.name}, less {b.name}", *difference(whole[a], whole[b], judge)] for a, b in asked]
        text += ["Differences, paired:", table(["", "judge", "Frechet distance"], rows)]
    if PLAIN in whole and not tune:
        text += ["Frechet distance of each class, and its change against plain (Table 3):", per_class(whole, judge)]
    return "vocabulary-tuning" if tune else "vocabulary", "\n\n".join(text)


def per_class(found: dict[Contender, Outcome], judge: ImageClassifier) -> str:
    """Table 3: for each class the distance of plain images, and by how much each method changes it."""
    before = found[PLAIN].distances(judge)
    others = [contender for contender in found if contender is not PLAIN]
    changes = [100 * (found[contender].distances(judge) / before - 1) for contender in others]
    rows = [
        [shape, f"{before[i]:.0f}", *(f"{change[i]:+.1f} %" for change in changes)]
        for i, shape in enumerate(HIDDEN_SHAPES)
    ]
    rows.append(["mean", f"{before.mean():.0f}", *(f"{change.mean():+.1f} %" for change in changes)])
    return table(["class", "plain", *(contender.name for contender in others)], rows)


if __name__ == "__main__":
    main()
