"""An effect that no caption names, as a word: the graded grounds of real artwork."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from artwork_world import (
    Asked,
    Report,
    Values,
    World,
    compare_pairs,
    draw_sheet,
    list_scenes,
    order,
    tabulate,
)
from base import use_preset
from chainrule.diffusion.denoiser import Conditioning
from chainrule.methods import Effect, Plain, Result, Task
from chainrule.methods.effect import VECTORS
from chainrule.methods.textual_inversion import TextualInversion
from chainrule.sprites.base import GROUNDS, Scene
from chainrule.sprites.judge import CORNER
from contest import Case, Contender

PAIRS = 4
"""How many words are learnt, each by itself; a textual inversion is of as many pictures."""
FIRST_SHOWN = 12_000
"""The first seed of the pictures that are learnt from."""
ENOUGH = 0.5
"""A ground is graded if its colours are this much as far apart as they should be."""
DRAWING = Plain(steps=20)


@dataclass(frozen=True, eq=False)
class Group:
    """What is learnt from, and what is drawn then.

    Args:
        shown: Scenes on even grounds, the first of which an effect is learnt from.
        wanted: What is drawn.
        first: The first seed.
    """

    shown: list[Scene]
    wanted: list[Scene]
    first: int


def make_groups(number: int, each: int) -> list[Group]:
    """So many words, each with so many images; none is learnt from what another is."""
    return [
        Group(list_scenes(PAIRS, FIRST_SHOWN + 100 * i), list_scenes(each, 1000 * i), 1000 * i)
        for i in range(number)
    ]


def grade(scene: Scene) -> Scene:
    return replace(scene, graded=True)


def make_cases(world: World, groups: Sequence[Group]) -> list[Case]:
    """One for each group."""
    found = []
    for group in groups:
        seeds = tuple(range(group.first, group.first + len(group.wanted)))
        task = partial(_make_task, world, group, seeds)
        found.append(Case(f"effect-{seeds[0]}-{len(seeds)}", seeds, task))
    return found


def _make_task(world: World, group: Group, seeds: tuple[int, ...]) -> Task:
    """What is drawn; the pictures, even and graded, with their captions after the prompts."""
    prompts = tuple(scene.caption for scene in (*group.wanted, *group.shown))
    pictures = (*world.draw(group.shown), *world.draw([grade(scene) for scene in group.shown]))
    denoiser = world.model.denoiser(prompts[: len(seeds)])
    return Task(world.model, denoiser, seeds, prompts=prompts, pictures=pictures)


# --- the methods ---------------------------------------------------------------------------------


def draw_plainly(task: Task, method: Plain) -> Result:
    """Without a word."""
    return method(replace(task, prompts=task.prompts[: len(task.seeds)], pictures=()))


def learn_effect(task: Task, method: Effect, drawing: Plain) -> Result:
    """The word that makes the first picture graded."""
    prompt = task.prompts[len(task.seeds)]
    pair = (task.pictures[0], task.pictures[PAIRS])
    told = task.model.denoiser(prompt)
    alone = replace(task, denoiser=told, seeds=(0,), prompts=(prompt,), pictures=pair)
    asked = method.prepare(alone)
    *_, last = method.run(asked)
    vectors = (last.best or last.values)[VECTORS]
    said = method.tell(asked, vectors, _say(task, method.word))
    return _draw_told(task, said, drawing)


def learn_word(task: Task, method: TextualInversion, drawing: Plain) -> Result:
    """The word that all graded pictures have besides their captions."""
    shown = tuple(f"{prompt} {{}}" for prompt in task.prompts[len(task.seeds) :])
    method = method.model_copy(update={"templates": shown})
    asked = method.prepare(replace(task, prompts=shown, pictures=task.pictures[PAIRS:]))
    *_, last = method.run(asked)
    said = method.read(asked, last.values[VECTORS])(_say(task, method.word))
    return _draw_told(task, said, drawing)


def _say(task: Task, word: str) -> list[str]:
    return [f"{prompt} {word}" for prompt in task.prompts[: len(task.seeds)]]


def _draw_told(task: Task, said: Conditioning, drawing: Plain) -> Result:
    told = task.model.denoiser(tuple(value.detach() for value in said))
    return draw_plainly(replace(task, denoiser=told), drawing)


EFFECT = Effect()
WORD = use_preset(TextualInversion, "tuned").model_copy(
    update={"word": EFFECT.word, "initial": "", "vectors": EFFECT.vectors}
)
WITHOUT = Contender("no word", draw_plainly, {"method": DRAWING})
CONTENDERS = (
    WITHOUT,
    Contender("effect, of one pair", learn_effect, {"method": EFFECT, "drawing": DRAWING}),
    Contender(
        f"textual inversion, of {PAIRS} pictures",
        learn_word,
        {"method": WORD, "drawing": DRAWING},
    ),
)


# --- the judge -----------------------------------------------------------------------------------


def measure_grading(image: Tensor, ground: str) -> float:
    """How far the colour goes from the upper corners to the lower, as a share of how far it should.

    Args:
        image: (3, 64, 64) in [0, 1].
        ground: The ground's name.
    """
    top, bottom = (torch.tensor(colour) / 255 for colour in GROUNDS[ground])
    corners = torch.cat([image[..., :CORNER], image[..., -CORNER:]], dim=2)
    ends = (corners[:, :CORNER], corners[:, -CORNER:])
    upper, lower = (end.flatten(1).median(dim=1).values for end in ends)
    away = bottom - top
    return float((lower - upper) @ away / away.square().sum())


def judge(world: World, scenes: Sequence[Scene], images: Tensor) -> dict[str, np.ndarray]:
    """Whether grounds are graded, and all that the captions say is there; and how far they go."""
    found = world.judge(scenes, images)
    pairs = zip(images.cpu(), scenes, strict=True)
    shares = np.array([measure_grading(image, scene.ground) for image, scene in pairs])
    graded, right = (shares > ENOUGH).astype(float), found["thing"] * found["ground"]
    return {
        "graded": graded,
        "the thing": found["thing"],
        "the ground": found["ground"],
        "all": graded * right,
        "how far": shares,
    }


def make_report(asked: Asked) -> Report:
    world = asked.world
    groups = make_groups(*asked.share(PAIRS))
    scenes = [scene for group in groups for scene in group.wanted]
    made = asked.play(CONTENDERS, make_cases(world, groups))
    values: Values = {each: judge(world, scenes, found.images) for each, found in made.items()}
    truth = judge(world, scenes, world.draw([grade(scene) for scene in scenes]))["all"].mean()
    text = [
        "## An effect as a word, on real artwork",
        f"{asked.command} No caption says that a ground is graded; a quarter of those in training "
        f"were. {len(groups)} words are learnt, each from one picture on an even ground and the "
        f"same on a graded one, or from {PAIRS} pictures on graded grounds and their captions; "
        f"each then draws {len(groups[0].wanted)} fresh captions, one seed each. Graded: from the "
        "upper corners to the lower the colour goes at least half as far as it should. The judges "
        "see thing and ground; of true pictures on graded grounds "
        f"{truth:.2f} are right in all. 95 % intervals over images. What a word cost is shared by "
        "its images. A network pass is one guidance pair, forwards or backwards.",
        tabulate(values, made),
        compare_pairs(values, "graded", WITHOUT),
        compare_pairs(values, "all", WITHOUT),
        order(values, "all"),
    ]
    shown = [len(groups[0].wanted) * i + k for i in range(len(groups)) for k in range(2)]
    shown = [i for i in shown if i < len(scenes)]
    columns = {each.name: found.images[shown] for each, found in made.items()}
    return Report("\n\n".join(text), partial(_draw, world, groups, shown, columns))


def _draw(
    world: World, groups: Sequence[Group], shown: Sequence[int], made: dict[str, Tensor]
) -> Image.Image:
    each = len(groups[0].wanted)
    learnt = [groups[i // each].shown[0] for i in shown]
    rows = [groups[i // each].wanted[i % each].things[0].phrase for i in shown]
    before = {"the pair": world.draw(learnt), "": world.draw([grade(scene) for scene in learnt])}
    return draw_sheet("Graded grounds, learnt as a word", rows, before, made)
