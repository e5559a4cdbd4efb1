"""Reinforcing the prompt, DOODL's Figure 5 on the bundled world: `python benchmarks/text.py`.

Two categories of prompts: compositions (two named things and their relation), and combinations that training never
saw (a colour with a named shape, or "below" between two shapes). The model runs without classifier-free guidance: with
it, it draws nearly all of these prompts right and leaves less to reinforce; plain images with it stand beside. All
methods draw the same prompts with the same nine seeds and follow the bundled CLIP; the exact judge says whether all
that the prompt names is there (colours, background, shapes, relation), and another CLIP, which no guidance ever
touched, how well image and prompt agree. Prompts are add_jumps for the intervals, differences are paired. Scales were
chosen on other prompts and seeds (`--tune`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch

import chainrule
from base import machine, publish, table
from chainrule import bundled
from chainrule.losses import ClipText, load_clip
from chainrule.losses.clip import Clip
from chainrule.methods import Task, plain
from chainrule.methods.presets import preset
from chainrule.models import Model
from chainrule.scenes.base import Scene, sample_scene
from chainrule.scenes.judge import check, load_judge
from contest import Case, Contender, Contest, Made, Rivals, differences, options, over_groups

SEEDS, PROMPTS = 9, 20
"""The paper's, and how many prompts in each category."""
RIVALS = Rivals(preset("tuned", "text"))
GUIDED = Contender("plain, with classifier-free guidance 3", plain, {"steps": RIVALS.steps})
TUNING = (
    *(RIVALS.one_step_at(scale) for scale in (10.0, 30.0, 100.0, 300.0)),
    *(
        RIVALS.doodl_from(*chosen)
        for chosen in ((1, 7, 0.05, 0), (1, 7, 0.01, 0), (5, 6, 0.05, 0), (5, 6, 0.01, 0), (11, 4, 0.01, 0))
    ),
)
"""The ways of DOODL cost the same."""


def named(scene: Scene) -> bool:
    return all(thing.word != "shape" for thing in scene.things)


CATEGORIES: dict[str, Callable[[Scene], bool]] = {
    "compositions": lambda scene: scene.relation is not None and not scene.held_out,
    "held-out combinations": lambda scene: scene.held_out,
}


def prompts(category: str, count: int, first: int, without: Iterable[str] = ()) -> Iterator[Scene]:
    """`count` scenes of the category from the scene seed `first`, with different captions, none of those `without`."""
    seen = set(without)
    seed, enough = first, len(seen) + count
    while len(seen) < enough:
        scene = sample_scene(seed, held_out=True)
        seed += 1
        if named(scene) and CATEGORIES[category](scene) and scene.caption not in seen:
            seen.add(scene.caption)
            yield scene


def cases(model: Model, clip: Clip, scenes: list[Scene], first: int, guidance_scale: float) -> list[Case]:
    """One for each prompt."""
    seeds, captions = tuple(range(first, first + SEEDS)), [scene.caption for scene in scenes]
    return [Case(prompt, seeds, partial(_task, model, clip, prompt, seeds, guidance_scale)) for prompt in captions]


def _task(model: Model, clip: Clip, prompt: str, seeds: tuple[int, ...], guidance_scale: float) -> Task:
    denoiser = model.denoiser(prompt, guidance_scale=guidance_scale)
    return Task(model, denoiser, seeds, ClipText(clip, prompt))


@torch.no_grad()
def loss_and_gradient(made: Made, scenes: list[Scene], judge_clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """(whether each image shows all of its prompt, its score by the judge CLIP), both (prompts, seeds)."""
    judge, images = load_judge(), made.images.unflatten(0, (len(scenes), -1))
    right = [[check(judge, scene, image).right for image in row] for scene, row in zip(scenes, images, strict=True)]
    texts = judge_clip.embed_texts([scene.caption for scene in scenes])
    scores = [100 * (judge_clip.embed_images(row) @ text) for row, text in zip(images, texts, strict=True)]
    return np.array(right, dtype=float), torch.stack(scores).numpy()


def main() -> None:
    parser = options(__doc__, "text")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="in each category")
    arguments = parser.parse_args()
    model, clip, judge_clip = chainrule.load(), load_clip(), load_clip(bundled.JUDGE_CLIP)
    contest = Contest(model, arguments.work, [bundled.PIPELINE, bundled.CLIP])
    first = 10_000 if arguments.tune else 0
    text = [
        f"## Text guidance{', choosing on other prompts and seeds' if arguments.tune else ''}",
        f"`python benchmarks/text.py --prompts {arguments.prompts}{' --tune' if arguments.tune else ''}`, {machine()}. "
        f"{arguments.prompts} prompts in each category, {SEEDS} seeds from {first} for each; 95 % intervals over "
        "prompts; a network pass is one guidance pair, forwards or backwards (a half, without guidance).",
    ]
    for category in CATEGORIES:
        asked_later = (scene.caption for scene in prompts(category, PROMPTS, 0)) if arguments.tune else ()
        scenes = list(prompts(category, arguments.prompts, first, asked_later))
        unguided, guided = (cases(model, clip, scenes, first, scale) for scale in (1.0, 3.0))
        successes, scores = dict[Contender, np.ndarray](), dict[Contender, np.ndarray]()
        played = contest.play(TUNING if arguments.tune else RIVALS.all, unguided, arguments.only)
        played |= contest.play([GUIDED], guided, arguments.only)
        rows = []
        for contender, made in played.items():
            right, score = loss_and_gradient(made, scenes, judge_clip)
            successes[contender], scores[contender] = right, score
            rows.append([contender.name, right.size, over_groups(right), over_groups(score), *made.costs])
        header = ["method", "images", "all of the prompt", "judge CLIP score", "network passes", "s per image"]
        text += [f"### {category.capitalize()}", table(header, rows)]
        if not arguments.tune:
            text += ["Success, paired:", differences(successes, RIVALS.questions)]
            text += ["Judge CLIP score, paired:", differences(scores, RIVALS.questions)]
    publish("text-tuning" if arguments.tune else "text", "\n\n".join(text))


if __name__ == "__main__":
    main()
