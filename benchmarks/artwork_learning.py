"""This very thing, elsewhere, on real artwork that the generator has never seen.

Four things that were held out of training, each in four pictures; four grounds, six seeds. What the
judge was not trained on it cannot name by its classes; so things are named here by its features:
the kind whose true pictures, in all styles, have the most similar ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from artwork_world import (
    Asked,
    Report,
    Values,
    World,
    compare,
    compare_pairs,
    draw_sheet,
    order,
    tabulate,
)
from base import use_preset
from chainrule.losses import ClipImage, Features, load_backbone
from chainrule.methods import DOODL, Adam, BestOf, Plain, Result, Task
from chainrule.methods.dreambooth import DreamBooth
from chainrule.methods.textual_inversion import TextualInversion
from chainrule.methods.thing import draw_prompts, name_thing
from chainrule.models import trained
from chainrule.scenes.base import article
from chainrule.sprites.artwork import STYLES
from chainrule.sprites.base import Scene, Thing
from chainrule.sprites.judge import read_ground
from chainrule.sprites.things import KINDS
from contest import Case, Contender, Made

PICTURES = (
    (32, 32, 50, "white"),
    (30, 34, 44, "yellow"),
    (35, 31, 47, "gray"),
    (32, 30, 54, "purple"),
)
"""Where the thing is in its pictures: x, y, size, ground."""
GROUNDS = ("black", "pink", "green", "blue")
"""Where it is wanted."""
AFTERWARDS, FRESH = 32, 5000
"""How many images of the nearest word are drawn after a training, and the first one's seed."""


@dataclass(frozen=True)
class Held:
    """A thing that training never showed.

    Args:
        kind: What it is.
        near: The nearest word that the model knows.
        style: In which it is shown.
    """

    kind: str
    near: str
    style: str

    def stand(self, ground: str, x: int = 32, y: int = 32, size: int = 50) -> Scene:
        return Scene((Thing(self.kind, x, y, size),), self.style, ground)

    @property
    def pictures(self) -> list[Scene]:
        """What it is learnt from."""
        return [self.stand(ground, *place) for *place, ground in PICTURES]


THINGS = (
    Held("lobster", "crab", "3d"),
    Held("castle", "house", "flat"),
    Held("hamster", "mouse", "sticker"),
    Held("teacup", "teapot", "3d"),
)


# --- the methods ---------------------------------------------------------------------------------


def make_cases(world: World, things: Sequence[Held], seeds: Sequence[int]) -> list[Case]:
    """One for each thing: all of its grounds and seeds, and the nearest word afterwards."""
    return [
        Case(
            f"{held.kind}-{held.style}-{seeds[0]}-{len(seeds)}",
            tuple(range(len(GROUNDS) * len(seeds))),  # how many images share the cost
            partial(_make_task, world, held, tuple(seeds)),
        )
        for held in things
    ]


def _make_task(world: World, held: Held, seeds: tuple[int, ...]) -> Task:
    prompts = tuple(f"a {{}} on a {ground} background" for ground in GROUNDS)
    pictures = tuple(world.draw(held.pictures))
    denoiser = world.model.denoiser(f"a {held.near}")
    # the nearest word is kept as the last prompt
    told = (*prompts, held.near)
    loss = ClipImage(world.clip, pictures)
    return Task(world.model, denoiser, seeds, loss, prompts=told, pictures=pictures)


def draw_near(task: Task, method: Plain) -> Result:
    """What the nearest word draws."""
    *prompts, near = task.prompts
    images = draw_prompts(task, name_thing(prompts, near), method.steps, None)
    return _join(task, images, method.steps)


def draw_each(task: Task, method: BestOf | DOODL) -> Result:
    """The nearest word on each ground by itself, by a method that learns nothing."""
    *prompts, near = task.prompts
    images = []
    for prompt in name_thing(prompts, near):
        asked = replace(task, prompts=(prompt,), denoiser=task.model.denoiser(prompt), pictures=())
        images.append(method(asked).images)
    return _join(task, torch.stack(images), method.steps)


def learn(task: Task, method: TextualInversion | DreamBooth) -> Result:
    """Learn the thing, beginning at the nearest word, and draw it on all grounds."""
    *prompts, near = task.prompts
    begun = {"noun": near} if isinstance(method, DreamBooth) else {"initial": near}
    method = method.model_copy(update=begun)
    asked = method.prepare(replace(task, prompts=tuple(prompts)))
    *_, last = method.run(asked)
    name = method.name if isinstance(method, DreamBooth) else method.word
    images = method.draw(asked, last, name_thing(prompts, name))
    if not isinstance(method, DreamBooth):  # the model is as it was
        return _join(task, images, method.steps)
    with trained.use(task.model, method.part, last.values):
        return _join(task, images, method.steps)


@torch.no_grad()
def _join(task: Task, images: Tensor, steps: int) -> Result:
    """Images (P, B, 3, H, W), and after them what the nearest word draws now."""
    near = task.prompts[-1]
    asked = replace(task, seeds=tuple(range(FRESH, FRESH + AFTERWARDS)))
    after = draw_prompts(asked, [f"{article(near)} {near} on a white background"], steps, None)[0]
    every = torch.cat([images.flatten(0, 1), after]).detach()
    return Result(every, every, every)


WORD = use_preset(TextualInversion, "tuned")
BOOTH = use_preset(DreamBooth, "tuned")
CAPTIONS = tuple(f"a {{}} on a {ground} background" for *_, ground in PICTURES)
LOW_RANK = {"rank": 8, "iterations": 200, "optimiser": Adam(rate=3e-3, beta2=0.999)}
EQUAL = 11
"""How many draws cost what an image of DreamBooth costs in network passes, its share of the
training included."""
BEST_OF = BestOf(count=EQUAL, steps=WORD.steps)
SHORT = use_preset(DOODL, "tuned", "image").model_copy(update={"start_of": 4, "iterations": 2})
PLAIN = Contender("plain, the nearest word", draw_near, {"method": Plain(steps=WORD.steps)})
BEST = Contender(f"best of {EQUAL} (DreamBooth's cost)", draw_each, {"method": BEST_OF})
CONTENDERS = (
    PLAIN,
    Contender("textual inversion, nothing told", learn, {"method": WORD}),
    Contender(
        "textual inversion, the grounds told",
        learn,
        {"method": WORD.model_copy(update={"templates": CAPTIONS})},
    ),
    Contender("DreamBooth, all weights", learn, {"method": BOOTH}),
    Contender(
        "DreamBooth, prior not preserved",
        learn,
        {"method": BOOTH.model_copy(update={"prior": 0.0})},
    ),
    Contender("DreamBooth, LoRA", learn, {"method": BOOTH.model_copy(update=LOW_RANK)}),
    BEST,
    Contender("DOODL (image=), DreamBooth's cost", draw_each, {"method": SHORT}),
)


# --- the judge -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Eye:
    """Names things by the judge's features.

    Args:
        world: Whose judge.
        ways: The styles and grounds in which each thing is known.
    """

    world: World
    ways: Sequence[tuple[str, str]]

    @cached_property
    def _features(self) -> Features:
        return load_backbone(self.world.weights / "judge", self.world.model.device)

    @torch.no_grad()
    def _look(self, images: Tensor) -> Tensor:
        """What the last layer sees in the images (N, 3, 64, 64), the mean over places, (N, C)."""
        parts = [self._features(part)[-1].mean(dim=2) for part in images.split(256)]
        return torch.cat(parts)

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor]:
        """The mean features of all kinds (K, C), of length 1, from their mean (C,) on."""
        scenes = [[Held(kind, "", s).stand(ground) for s, ground in self.ways] for kind in KINDS]
        known = torch.stack([self._look(self.world.draw(some)).mean(dim=0) for some in scenes])
        middle = known.mean(dim=0)
        return functional.normalize(known - middle), middle

    def name(self, images: Tensor) -> list[str]:
        """The kind of thing in each of the images (N, 3, 64, 64)."""
        known, middle = self._known
        seen = self._look(images.to(self.world.model.device)) - middle
        labels = list(KINDS)
        return [labels[i] for i in (seen @ known.T).argmax(dim=1).tolist()]


def judge(eye: Eye, things: Sequence[Held], seeds: int, made: Made) -> dict[str, np.ndarray]:
    """Whether thing, ground and both are right; and whether the nearest word still means itself.

    The images are in groups, one for each thing and ground.
    """
    images = made.images.unflatten(0, (len(things), -1))
    drawn, after = images.split([len(GROUNDS) * seeds, AFTERWARDS], dim=1)
    wanted = [held.kind for held in things for _ in range(drawn.shape[1])]
    thing = compare(eye.name(drawn.flatten(0, 1)), wanted)
    grounds = [read_ground(image) for image in drawn.flatten(0, 1)]
    ground = compare(grounds, [g for _ in things for g in GROUNDS for _ in range(seeds)])
    near = [held.near for held in things for _ in range(AFTERWARDS)]
    seen = eye.world.judges.name_things(after.flatten(0, 1).to(eye.world.model.device))
    kept = compare(seen, near)
    groups = len(things) * len(GROUNDS)
    return {
        "thing": thing.reshape(groups, -1),
        "ground": ground.reshape(groups, -1),
        "both": (thing * ground).reshape(groups, -1),
        "the nearest word afterwards": kept.reshape(len(things), -1),
    }


def tell_truth(eye: Eye, things: Sequence[Held]) -> str:
    """How often true pictures of the things are named so: by features, and by the judge's classes.

    They are on the wanted grounds, smaller, and not in the middle.
    """
    scenes = [held.stand(ground, 34, 30, 44) for held in things for ground in GROUNDS]
    images, wanted = eye.world.draw(scenes), [scene.things[0].kind for scene in scenes]
    names = (eye.name(images), eye.world.judges.name_things(images))
    by_features, by_classes = (compare(seen, wanted).mean() for seen in names)
    return (
        f"Of {len(scenes)} other true pictures of them, {by_features:.2f} are named so; by the "
        f"judge's own classes {by_classes:.2f}"
    )


def make_report(asked: Asked) -> Report:
    world = asked.world
    number, each = asked.share(len(THINGS))
    things, seeds = THINGS[:number], max(1, each // len(GROUNDS))
    made = asked.play(CONTENDERS, make_cases(world, things, range(seeds)), ("clip",))
    ways = list(product(STYLES, GROUNDS))
    eye = Eye(world, ways[:1] if asked.toy else ways)
    values: Values = {one: judge(eye, things, seeds, found) for one, found in made.items()}
    text = [
        "## This very thing, elsewhere, on real artwork",
        f"{asked.command} {len(things)} things that training never showed "
        f"({', '.join(f'{held.kind}, {held.style}' for held in things)}), {len(PICTURES)} pictures "
        f"of each; {len(GROUNDS)} other grounds, {seeds} seeds from 0. What is shown is named by "
        "the features of the judge, which no method sees: the kind whose true pictures have the "
        f"most similar ones. {tell_truth(eye, things)}. The nearest words are "
        f"{', '.join(held.near for held in things)}; afterwards: whether the judge sees these in "
        f"{AFTERWARDS} images that are drawn by them after each training. 95 % intervals over the "
        "pairs of thing and ground. What a training cost is shared by its images. A network pass "
        "is one guidance pair.",
        tabulate(values, made),
        compare_pairs(values, "both", PLAIN),
        compare_pairs(values, "both", BEST),
        order(values, "both"),
    ]
    return Report("\n\n".join(text), partial(_draw, world, things, seeds, made))


def _draw(
    world: World, things: Sequence[Held], seeds: int, made: Mapping[Contender, Made]
) -> Image.Image:
    """Each thing on its first two grounds."""
    shown = [(i, place) for i in range(len(things)) for place in (0, 1)]
    columns = {}
    for contender, found in made.items():
        images = found.images.unflatten(0, (len(things), -1))
        columns[contender.name] = torch.stack([images[i, place * seeds] for i, place in shown])
    rows = [f"{things[i].kind}, {GROUNDS[place]}" for i, place in shown]
    before = {"a picture of it": world.draw([things[i].pictures[place] for i, place in shown])}
    return draw_sheet("This very thing, elsewhere", rows, before, columns)
