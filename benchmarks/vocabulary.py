"""Vocabulary expansion, DOODL's Table 3 on the bundled world: `python benchmarks/vocabulary.py`.

Towards each of the eight shapes that no caption names: how often the judge (which no guidance ever
touched) sees the wanted shape, how often the guide does, and the Frechet distance in the judge's
features to fresh renders of the class. All methods share prompts and seeds. What was chosen (scale,
rate, crops) was chosen on other seeds (`--tune`).

The classes share the seeds' noise, so intervals of success resample seeds, not images; those of the
distance resample classes. Differences between methods are paired. Images are kept in the work
folder, under the settings and the weights that made them, so a stopped benchmark goes on where it
was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

import chainrule
from base import machine, publish, table, use_preset
from chainrule.bundled import SCENES
from chainrule.diffusion.denoiser import Denoiser
from chainrule.images import from_pil
from chainrule.losses import Classifier, ImageClassifier, load_classifier
from chainrule.methods import (
    DOODL,
    Adam,
    Momentum,
    NoiseAwareGuidance,
    OneStepGuidance,
    Plain,
    Result,
    Task,
)
from chainrule.methods.best_of import choose_best, draws
from chainrule.metrics import bootstrap, frechet_distance, wilson
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.scenes.base import HIDDEN_SHAPES, SHAPES, render, sample_scene
from chainrule.scenes.judge import load_judge
from contest import Case, Contender, Contest, Made, count_equal_draws, make_options

PROMPTS = (("red", "white"), ("blue", "gray"))
FIRST_SEED, TUNING_SEED = 0, 10_000
TUNED, FAITHFUL = (use_preset(DOODL, name) for name in ("tuned", "faithful"))
STEPS = TUNED.steps
EQUAL = count_equal_draws(TUNED)


@lru_cache(maxsize=1)
def draw_all(
    model: Model, denoiser: Denoiser, seeds: tuple[int, ...], count: int, steps: int
) -> list[Result]:
    """`count` batches of plain images, kept for the next call."""
    return list(draws(Task(model, denoiser, seeds), count, steps=steps))


def best_of(task: Task, count: int, steps: int) -> Result:
    """`BestOf`, whose draws the classes share: only the choice depends on the class."""
    drawn = draw_all(task.model, task.denoiser, task.seeds, count, steps)
    return choose_best(drawn, task.require_loss())


def change_tuned(**changes: object) -> DOODL:
    """What tuning starts from, with changes: the best of 8 draws and 15 iterations.

    It does not follow the preset.
    """
    return TUNED.model_copy(update={"start_of": 8, "iterations": 15, "crops": 4, **changes})


def one_step_at(scale: float) -> Contender:
    return Contender(f"one-step, scale {scale:g}", OneStepGuidance(scale=scale, steps=STEPS))


def noise_aware_at(scale: float) -> Contender:
    return Contender(f"noise-aware, scale {scale:g}", NoiseAwareGuidance(scale=scale, steps=STEPS))


def best_of_at(count: int, what: str) -> Contender:
    return Contender(f"best of {count} ({what})", best_of, {"count": count, "steps": STEPS})


PLAIN = Contender("plain", Plain(steps=STEPS))
ONE_STEP = one_step_at(use_preset(OneStepGuidance, "tuned").scale)
BEST_OF_START = best_of_at(TUNED.start_of, "DOODL tuned's start")
BEST_OF_EQUAL = best_of_at(EQUAL, "the cost of DOODL tuned")
DOODL_TUNED = Contender("DOODL tuned", TUNED)
DOODL_FAITHFUL = Contender("DOODL faithful", FAITHFUL, limit=2)
NOISE_AWARE = noise_aware_at(300.0)
CONTENDERS = (
    PLAIN,
    ONE_STEP,
    NOISE_AWARE,
    BEST_OF_START,
    BEST_OF_EQUAL,
    DOODL_TUNED,
    DOODL_FAITHFUL,
)
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
        Contender(
            f"DOODL Adam {rate}, {crops} crops",
            change_tuned(optimiser=Adam(rate=rate), crops=crops),
        )
        for rate, crops in (
            (0.005, 4),
            (0.01, 4),
            (0.02, 4),
            (0.05, 4),
            (0.1, 4),
            (0.2, 4),
            (0.1, 0),
        )
    ),
    *(
        Contender(
            f"DOODL start of {count}, {iterations} iterations",
            change_tuned(start_of=count, iterations=iterations, optimiser=Adam(rate=0.05)),
        )
        for count, iterations in ((16, 12), (32, 7))
    ),
    Contender("DOODL momentum, clip 0.01", change_tuned(optimiser=Momentum(rate=100.0, clip=1e-2))),
)


def make_cases(
    model: Model,
    guide: ImageClassifier,
    seeds: range,
    size: int,
    limit: int | None = None,
    shapes: Sequence[str] = HIDDEN_SHAPES,
) -> list[Case]:
    """Each class in turn, asked for of the same seeds.

    Args:
        model: What draws.
        guide: Whose class is wanted.
        seeds: For each class, shared out among the prompts.
        size: How many are drawn at a time.
        limit: How many of each prompt's seeds are drawn; None: all.
        shapes: The classes.

    Returns:
        In the order of the prompts and their seeds, then of the classes.
    """
    each, found = len(seeds) // len(PROMPTS), []
    for i, (colour, background) in enumerate(PROMPTS):
        denoiser = model.denoiser(f"a {colour} shape on a {background} background")
        own = tuple(seeds[i * each : (i + 1) * each])[:limit]
        for start in range(0, len(own), size):
            some = own[start : start + size]
            for shape in shapes:
                task = partial(Task, model, denoiser, some, Classifier(guide, shape))
                found.append(Case(f"{shape}-{some[0]}-{len(some)}", some, task))
    return found


@torch.no_grad()
def find_features(judge: ImageClassifier, images: Tensor) -> Tensor:
    """The judge's features before its last layer, (N, 128)."""
    network = judge.network.network  # type: ignore[attr-defined]
    return torch.cat([network.convnext(part * 2 - 1).pooler_output for part in images.split(256)])


def find_reference(judge: ImageClassifier, shape: str, count: int) -> Tensor:
    """The judge's features (count, 128) of fresh renders of a class.

    They are in the prompts' colours and backgrounds.
    """
    scenes = [sample_scene(seed, shape=shape, single=True) for seed in range(count)]
    for i, scene in enumerate(scenes):
        colour, background = PROMPTS[i % len(PROMPTS)]
        thing = replace(scene.things[0], colour=colour)
        scenes[i] = replace(scene, things=(thing,), background=background)
    return find_features(judge, from_pil([render(scene) for scene in scenes]))


@dataclass(frozen=True)
class Outcome:
    """What became of one method.

    Args:
        seeds: Those that it was run on.
        by_judge: (seeds, classes), the shapes that the judge sees, as indices.
        by_guide: Likewise, the guide.
        wanted: (classes,), the shapes that were asked for.
        features: (seeds, classes, 128), the judge's.
        passes: What an image cost.
        seconds: Likewise.
    """

    seeds: tuple[int, ...]
    by_judge: Tensor
    by_guide: Tensor
    wanted: Tensor
    features: Tensor
    passes: float
    seconds: float

    def select(self, seeds: tuple[int, ...]) -> Outcome:
        """The same for some of the seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return replace(
            self,
            seeds=seeds,
            by_judge=self.by_judge[rows],
            by_guide=self.by_guide[rows],
            features=self.features[rows],
        )

    @property
    def right(self) -> Tensor:
        """Whether the judge sees the wanted shape, (seeds, classes)."""
        return (self.by_judge == self.wanted).float()

    @property
    def guided(self) -> Tensor:
        """Whether the guide does."""
        return (self.by_guide == self.wanted).float()

    def find_changed(self, other: Outcome) -> Tensor:
        """Where `other` did not show the wanted shape: whether this shows another one, (n,)."""
        return (self.by_judge != other.by_judge)[other.right == 0].float()

    def distances(self, references: Mapping[str, Tensor]) -> np.ndarray:
        """The Frechet distance of each class to its renders."""
        each = enumerate(references.values())
        return np.array([frechet_distance(self.features[:, i], wanted) for i, wanted in each])


@torch.no_grad()
def judge_images(
    judge: ImageClassifier,
    guide: ImageClassifier,
    cases: Sequence[Case],
    shapes: Sequence[str],
    made: Made,
) -> Outcome:
    """What became of a method's images, which come in the order of the cases.

    Args:
        judge: The judge.
        guide: The guide.
        cases: Batches of seeds, then classes.
        shapes: The classes.
        made: The images, of each case by seeds.
    """
    first = cases[:: len(shapes)]
    seeds = tuple(seed for case in first for seed in case.seeds)
    per_batch = [
        images.unflatten(0, (len(shapes), -1))
        for images in made.images.split([len(shapes) * len(case.seeds) for case in first])
    ]
    by_class = torch.cat(per_batch, dim=1)  # (classes, seeds, 3, H, W)
    by_judge, by_guide = (
        torch.stack([network(images).argmax(dim=1) for images in by_class], dim=1)
        for network in (judge, guide)
    )
    seen = torch.stack([find_features(judge, images) for images in by_class], dim=1)
    wanted = torch.tensor([SHAPES.index(shape) for shape in shapes])
    return Outcome(seeds, by_judge, by_guide, wanted, seen, made.passes, made.seconds)


def make_row(name: str, found: Outcome, references: Mapping[str, Tensor]) -> list[object]:
    by_seed, by_guide = (
        bootstrap(values.mean(dim=1).tolist()) for values in (found.right, found.guided)
    )
    distance = bootstrap(found.distances(references).tolist())
    costs = f"{found.passes:.0f}", f"{found.seconds:.1f}"
    return [name, found.right.numel(), by_seed, by_guide, distance, *costs]


def subtract(one: Outcome, other: Outcome, references: Mapping[str, Tensor]) -> list[object]:
    """The difference of success (paired by seed), and of the distance (paired by class)."""
    success = (one.right - other.right).mean(dim=1)
    distance = one.distances(references) - other.distances(references)
    return [bootstrap(success.tolist()), bootstrap(distance.tolist())]


def describe_changes(found: Outcome, before: Outcome, contender: Contender) -> str:
    """How often a method leaves the shape that it started from."""
    values = found.find_changed(before)
    share = wilson(int(values.sum()), len(values))
    return (
        f"Of {len(values)} plain images of other shapes than the wanted, {contender.name} changed "
        f"the shape of {share}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "vocabulary", only=["plain", "one-step", "DOODL"])
    help_ = "for each class, shared out among the prompts"
    options.add("--seeds", type=int, default=32, toy=6, help=help_)
    options.add("--batch", type=int, default=16, toy=16)
    options.add("--classes", type=int, default=len(HIDDEN_SHAPES), toy=1)
    options.add("--renders", type=int, default=512, toy=16, help="of each class")
    arguments = options.parse(argv)
    shapes, tune = HIDDEN_SHAPES[: arguments.classes], arguments.tune
    judge, guide = load_judge(), load_classifier()
    model, passes = count_passes(chainrule.load())
    first = TUNING_SEED if tune else FIRST_SEED
    seeds = range(first, first + arguments.seeds)
    weights = [SCENES.pipeline, SCENES.classifier, SCENES.noise_aware]
    contest = Contest(passes, arguments.work, weights, toy=arguments.toy)

    def ask(contender: Contender) -> list[Case]:
        return make_cases(model, guide, seeds, arguments.batch, contender.limit, shapes)

    played = contest.play(TUNING if tune else CONTENDERS, ask, arguments.only)
    found = {
        contender: judge_images(judge, guide, ask(contender), shapes, made)
        for contender, made in played.items()
    }
    references = {shape: find_reference(judge, shape, arguments.renders) for shape in shapes}
    publish(*report(found, references, seeds, tune), dry=arguments.dry)


def report(
    found: dict[Contender, Outcome], references: Mapping[str, Tensor], seeds: range, tune: bool
) -> tuple[str, str]:
    """The section's name, and its text."""
    header = [
        "method",
        "images",
        "judge",
        "guide",
        "Frechet distance",
        "network passes",
        "s per image",
    ]
    count = len(seeds)
    whole = {contender: each for contender, each in found.items() if len(each.seeds) == count}
    rows = [make_row(contender.name, each, references) for contender, each in whole.items()]
    text = [_introduce(seeds, tune), table(header, rows)]
    for contender, few in found.items():
        if contender not in whole:
            same = {other: each.select(few.seeds) for other, each in whole.items()}
            same[contender] = few
            text += [
                f"On the {len(few.seeds)} seeds of {contender.name} (distances of sets of other "
                "sizes do not compare):",
                table(header, [make_row(c.name, each, references) for c, each in same.items()]),
            ]
            if PLAIN in same and ONE_STEP in same:
                both = ((few, contender), (same[ONE_STEP], ONE_STEP))
                text.append(" ".join(describe_changes(one, same[PLAIN], c) for one, c in both))
    asked = [(one, other) for one, other in QUESTIONS if one in whole and other in whole]
    if asked and not tune:
        rows = [
            [f"{a.name}, less {b.name}", *subtract(whole[a], whole[b], references)]
            for a, b in asked
        ]
        text += ["Differences, paired:", table(["", "judge", "Frechet distance"], rows)]
    if PLAIN in whole and not tune:
        text += [
            "Frechet distance of each class, and its change against plain (Table 3):",
            tabulate_classes(whole, references),
        ]
    return "vocabulary-tuning" if tune else "vocabulary", "\n\n".join(text)


def _introduce(seeds: range, tune: bool) -> str:
    command = f"python benchmarks/vocabulary.py --seeds {len(seeds)}{' --tune' if tune else ''}"
    said = (
        f"## Vocabulary expansion{', choosing on other seeds' if tune else ''}\n\n"
        f"`{command}` on {machine()}. Eight classes, two prompts, seeds from {seeds[0]}; 95 % "
        "intervals, of success over seeds, of the distance over classes; a network pass is one "
        "guidance pair, forwards or backwards."
    )
    if not tune:
        return said
    return (
        f"{said} DOODL starts at the best of 8 draws and takes 15 iterations unless its name says "
        "otherwise."
    )


def tabulate_classes(found: dict[Contender, Outcome], references: Mapping[str, Tensor]) -> str:
    """Table 3: for each class the distance of plain images, and how each method changes it."""
    before = found[PLAIN].distances(references)
    others = [contender for contender in found if contender is not PLAIN]
    changes = [100 * (found[contender].distances(references) / before - 1) for contender in others]
    rows = [
        [shape, f"{before[i]:.0f}", *(f"{change[i]:+.1f} %" for change in changes)]
        for i, shape in enumerate(references)
    ]
    rows.append(
        ["mean", f"{before.mean():.0f}", *(f"{change.mean():+.1f} %" for change in changes)]
    )
    return table(["class", "plain", *(contender.name for contender in others)], rows)


if __name__ == "__main__":
    main()
