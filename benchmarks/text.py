"""Reinforcing the prompt, DOODL's Figure 5 on the bundled world: `python benchmarks/text.py`.

Two categories of prompts: compositions (two named things and their relation), and combinations that
training never saw (a colour with a named shape, or "below" between two shapes). The model runs
without classifier-free guidance: with it, it draws nearly all of these prompts right and leaves
less to reinforce; plain images with it stand beside. All methods draw the same prompts with the
same nine seeds and follow the bundled CLIP; the exact judge says whether all that the prompt names
is there (colours, background, shapes, relation), and another CLIP, which no guidance ever touched,
how well image and prompt agree. Prompts are resampled for the intervals, differences are paired.
Scales were chosen on other prompts and seeds (`--tune`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

import chainrule
from base import machine, publish, table
from chainrule.bundled import SCENES
from chainrule.losses import Clip, ClipText, load_clip
from chainrule.methods import Plain, Task
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.scenes.base import Scene, sample_scene
from chainrule.scenes.judge import check, load_judge
from contest import (
    Case,
    Contender,
    Contest,
    Made,
    Rivals,
    average_groups,
    make_options,
    tabulate_differences,
)

SEEDS, PROMPTS = 9, 20
"""The paper's, and how many prompts in each category."""
RIVALS = Rivals("text")
GUIDED = Contender("plain, with classifier-free guidance 3", Plain(steps=RIVALS.steps))
TUNING = (
    *(RIVALS.one_step_at(scale) for scale in (10.0, 30.0, 100.0, 300.0)),
    *(
        RIVALS.doodl_from(*settings)
        for settings in (
            (1, 7, 0.05, 0),
            (1, 7, 0.01, 0),
            (5, 6, 0.05, 0),
            (5, 6, 0.01, 0),
            (11, 4, 0.01, 0),
        )
    ),
)
"""The ways of DOODL cost the same."""


def has_names(scene: Scene) -> bool:
    """Whether every thing of a scene has a shape with a name."""
    return all(thing.word != "shape" for thing in scene.things)


CATEGORIES: dict[str, Callable[[Scene], bool]] = {
    "compositions": lambda scene: scene.relation is not None and not scene.held_out,
    "held-out combinations": lambda scene: scene.held_out,
}


def find_scenes(
    category: str, count: int, first: int, without: Iterable[str] = ()
) -> Iterator[Scene]:
    """Scenes of a category with different captions.

    Args:
        category: One of `CATEGORIES`.
        count: How many.
        first: The seed of the first scene that is tried.
        without: Captions that they do not have.
    """
    seen = set(without)
    seed, enough = first, len(seen) + count
    while len(seen) < enough:
        scene = sample_scene(seed, held_out=True)
        seed += 1
        if has_names(scene) and CATEGORIES[category](scene) and scene.caption not in seen:
            seen.add(scene.caption)
            yield scene


def make_cases(
    model: Model, clip: Clip, scenes: list[Scene], seeds: range, guidance_scale: float
) -> list[Case]:
    """One for each prompt."""
    return [
        Case(
            caption, tuple(seeds), partial(_make_task, model, clip, caption, seeds, guidance_scale)
        )
        for caption in (scene.caption for scene in scenes)
    ]


def _make_task(model: Model, clip: Clip, prompt: str, seeds: range, guidance_scale: float) -> Task:
    denoiser = model.denoiser(prompt, guidance_scale=guidance_scale)
    return Task(model, denoiser, tuple(seeds), ClipText(clip, prompt))


@torch.no_grad()
def judge_images(
    made: Made, scenes: list[Scene], judge_clip: Clip
) -> tuple[np.ndarray, np.ndarray]:
    """How right the images are.

    Args:
        made: The images.
        scenes: What they should show.
        judge_clip: The judge's CLIP.

    Returns:
        Whether each shows all of its prompt, and its score by the judge's CLIP, both
        (prompts, seeds).
    """
    judge, images = load_judge(), made.images.unflatten(0, (len(scenes), -1))
    pairs = zip(scenes, images, strict=True)
    right = [[check(judge, scene, image).right for image in row] for scene, row in pairs]
    texts = judge_clip.embed_texts([scene.caption for scene in scenes])
    scores = [
        100 * (judge_clip.embed_images(row) @ text) for row, text in zip(images, texts, strict=True)
    ]
    return np.array(right, dtype=float), torch.stack(scores).numpy()


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "text")
    options.add("--prompts", type=int, default=PROMPTS, toy=1, help="in each category")
    options.add("--seeds", type=int, default=SEEDS, toy=1, help="for each prompt")
    arguments = options.parse(argv)
    tune, count = arguments.tune, arguments.prompts
    clip, judge_clip = load_clip(), load_clip(SCENES.judge_clip)
    model, passes = count_passes(chainrule.load())
    weights = [SCENES.pipeline, SCENES.clip]
    contest = Contest(passes, arguments.work, weights, toy=arguments.toy)
    first = 10_000 if tune else 0
    seeds = range(first, first + arguments.seeds)
    command = f"python benchmarks/text.py --prompts {count}{' --tune' if tune else ''}"
    text = [
        f"## Text guidance{', choosing on other prompts and seeds' if tune else ''}",
        f"`{command}`, {machine()}. {count} prompts in each category, {len(seeds)} seeds from "
        f"{first} for each; 95 % intervals over prompts; a network pass is one guidance pair, "
        "forwards or backwards (a half, without guidance).",
    ]
    for category in CATEGORIES:
        later = (scene.caption for scene in find_scenes(category, PROMPTS, 0)) if tune else ()
        scenes = list(find_scenes(category, count, first, later))
        unguided, guided = (make_cases(model, clip, scenes, seeds, scale) for scale in (1.0, 3.0))
        played = contest.play(TUNING if tune else RIVALS.all, unguided, arguments.only)
        played |= contest.play([GUIDED], guided, arguments.only)
        text += report(category, played, scenes, judge_clip, tune)
    publish("text-tuning" if tune else "text", "\n\n".join(text), dry=arguments.dry)


def report(
    category: str,
    played: dict[Contender, Made],
    scenes: list[Scene],
    judge_clip: Clip,
    tune: bool,
) -> list[str]:
    """What is said of a category."""
    successes, scores = dict[Contender, np.ndarray](), dict[Contender, np.ndarray]()
    rows = []
    for contender, made in played.items():
        right, score = judge_images(made, scenes, judge_clip)
        successes[contender], scores[contender] = right, score
        shares = average_groups(right), average_groups(score)
        rows.append([contender.name, right.size, *shares, *made.costs])
    header = [
        "method",
        "images",
        "all of the prompt",
        "judge CLIP score",
        "network passes",
        "s per image",
    ]
    text = [f"### {category.capitalize()}", table(header, rows)]
    if not tune:
        text += ["Success, paired:", tabulate_differences(successes, RIVALS.questions)]
        text += ["Judge CLIP score, paired:", tabulate_differences(scores, RIVALS.questions)]
    return text


if __name__ == "__main__":
    main()
