"""DOODL's tables with one-step guidance at its strongest: `python benchmarks/strongest.py`.

In the tables of `vocabulary.py`, `text.py`, `personalisation.py` and `beauty.py` one-step guidance
draws one image, as in DOODL's paper, for a small part of what DOODL costs. Here it may spend as
many passes, in the form that did best towards what networks judge (`like="gentle"` of tfg): the
best of many guided draws. Beside it, what chainrule does by default (the hybrid). Some of the cases
of each table, judged as there; its looks at images are counted against what is new here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import beauty
import chainrule
import personalisation
import text
import vocabulary
from base import machine, publish, table, use_preset
from chainrule.bundled import SCENES
from chainrule.losses import load_classifier, load_clip, load_rater
from chainrule.methods import Hybrid
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.scenes.base import HIDDEN_SHAPES
from chainrule.scenes.judge import load_judge
from contest import (
    Case,
    Contender,
    Contest,
    Made,
    average_groups,
    count_equal_draws,
    make_options,
    tabulate_differences,
)

CLASSES = "a class without a word"


@dataclass(frozen=True)
class Table:
    """Some cases of one of DOODL's tables.

    Args:
        cases: What is asked for.
        judge: Success of each image, its groups first: those that are resampled.
        loss: The kind of the loss.
        one_step: One-step guidance, one image.
        doodl: DOODL, tuned.
        budget: DOODL's network passes.
    """

    cases: list[Case]
    judge: Callable[[Made], np.ndarray]
    loss: str
    one_step: Contender
    doodl: Contender
    budget: int

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """Those of the table, and what is new."""
        photo = self.loss == "aesthetic"
        best = use_preset(Hybrid, "tuned", self.loss, photo=photo)
        best = best.model_copy(update={"budget": self.budget})
        drawn = {"like": "gentle", "searched": 1.0, **({} if photo else {"screened": 0.0})}
        return (
            self.one_step,
            Contender("best of N, gently guided", best.model_copy(update=drawn)),
            self.doodl,
            Contender("hybrid", best),
        )


def take_classes(model: Model, count: int) -> Table:
    """Vocabulary expansion: so many seeds of each prompt, each class."""
    judge, guide = load_judge(), load_classifier()
    seeds = range(vocabulary.FIRST_SEED, vocabulary.FIRST_SEED + 2 * count)
    cases = vocabulary.make_cases(model, guide, seeds, count)

    def succeed(made: Made) -> np.ndarray:
        return vocabulary.judge_images(judge, guide, cases, HIDDEN_SHAPES, made).right.numpy().T

    tuned = vocabulary.TUNED
    budget = count_equal_draws(tuned) * tuned.steps
    return Table(cases, succeed, "classifier", vocabulary.ONE_STEP, vocabulary.DOODL_TUNED, budget)


def take_prompts(model: Model, count: int) -> Table:
    """Text guidance: so many prompts of each category, two seeds each."""
    scenes = [scene for name in text.CATEGORIES for scene in text.find_scenes(name, count, 0)]
    cases = text.make_cases(model, load_clip(), scenes, range(2), 1.0)
    judge_clip = load_clip(SCENES.judge_clip)

    def succeed(made: Made) -> np.ndarray:
        return text.judge_images(made, scenes, judge_clip)[0]

    rivals = text.RIVALS
    budget = count_equal_draws(rivals.tuned) * rivals.steps
    return Table(cases, succeed, "text", rivals.one_step, rivals.doodl, budget)


def take_things(model: Model, count: int) -> Table:
    """Personalisation: each thing in each context, so many seeds."""
    wanted = personalisation.make_wanted(False, None)
    cases = personalisation.make_cases(model, load_clip(), wanted, tuple(range(count)))

    def succeed(made: Made) -> np.ndarray:
        return personalisation.judge_images(made, wanted)["right"]

    rivals = personalisation.RIVALS
    return Table(cases, succeed, "image", rivals.one_step, rivals.doodl, personalisation.BUDGET)


def take_photos(model: Model, count: int) -> Table:
    """More beautiful photos."""
    seeds, judge = range(count), load_judge()
    cases = beauty.make_cases(model, load_rater(), seeds, min(count, 16))
    photos = beauty.draw_photos(seeds)

    def succeed(made: Made) -> np.ndarray:
        return beauty.judge_edits(judge, made, photos)["right"]

    pair = 2  # each step of EDICT asks the network of both latents
    budget = pair * beauty.TUNED.steps * (3 * beauty.TUNED.iterations + 2)
    return Table(cases, succeed, "aesthetic", beauty.ONE_STEPS[0], beauty.BY_DOODL, budget)


TABLES: dict[str, tuple[Callable[[Model, int], Table], int]] = {
    CLASSES: (take_classes, 1),
    "all of a prompt": (take_prompts, 8),
    "this very thing, elsewhere": (take_things, 1),
    "a more beautiful photo": (take_photos, 24),
}
"""What takes the cases, and of how many seeds, prompts or photos at the usual size."""


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "strongest", tune=False, only=["one-step"])
    options.add("--size", type=int, default=1, toy=1, help="how many times the usual size")
    options.add("--tables", type=int, default=len(TABLES), toy=1, help="only the first ones")
    arguments = options.parse(argv)
    warnings.filterwarnings("ignore")
    model, passes = count_passes(chainrule.load())
    weights = [SCENES.pipeline, SCENES.classifier, SCENES.clip, SCENES.rater]
    parts = [
        "## One-step guidance at its strongest",
        f"`python benchmarks/strongest.py --size {arguments.size} --tables {arguments.tables}` on "
        f"{machine()}. 95 % intervals "
        "over classes, prompts, pairs of thing and context, photos; a network pass is one guidance "
        "pair, forwards or backwards; of what is new here, judging an image is one of those that "
        "it may spend, and is not counted in the column.",
    ]
    for name, (take, count) in list(TABLES.items())[: arguments.tables]:
        asked = take(model, count * arguments.size)
        contest = Contest(passes, arguments.work / name, weights, toy=arguments.toy)
        played = contest.play(asked.contenders, asked.cases, arguments.only)
        right = {contender: asked.judge(made) for contender, made in played.items()}
        rows = [
            [contender.name, right[contender].size, average_groups(right[contender]), *made.costs]
            for contender, made in played.items()
        ]
        one, drawn, doodl, best = asked.contenders
        found = {each.name: right[each] for each in right}
        pairs = ((doodl, one), (doodl, drawn), (best, drawn), (best, doodl))
        again = {each: found[each.name] for pair in pairs for each in pair if each.name in found}
        header = ["method", "images", "right", "network passes", "s per image"]
        parts += [f"### {name.capitalize()}", table(header, rows)]
        parts += ["Paired:", tabulate_differences(again, pairs)]
    publish("strongest", "\n\n".join(parts), dry=arguments.dry)


if __name__ == "__main__":
    main()
