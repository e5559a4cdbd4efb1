"""This very thing, elsewhere: the methods that learn from pictures: `python benchmarks/tuning.py`.

Four things that no caption can name (a hidden shape, a colour, perhaps stripes), each shown in four
pictures; six contexts that name the background, the size or a second thing; four seeds: 96 images a
method. The exact judge says whether the context is right (background, size, the other thing and
where it stands), pixels which colour the thing has and whether it is striped, and a network that no
method saw which shape. Afterwards each tuned model draws the class word alone: how many shapes does
it still know?

Methods that learn are given the pictures once, and draw all contexts and seeds. The others are told
the thing as captions tell it ("a red shape"), which is DreamBooth's class too, and get what an
image costs in network passes anew for each. The intervals are over pairs of thing and context.
Settings were chosen on other things and seeds (`--tune`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import chainrule
from base import machine, publish, publish_picture, table, use_preset
from chainrule.bundled import SCENES
from chainrule.images import contact_sheet, from_pil
from chainrule.losses import Clip, ClipImage, load_clip
from chainrule.methods import Adam, BestOf, Method, Plain, Result, Task
from chainrule.methods.dreambooth import DreamBooth
from chainrule.methods.reward import RewardTuning
from chainrule.methods.textual_inversion import TextualInversion
from chainrule.methods.thing import draw_prompts, name_thing
from chainrule.methods.training import Training
from chainrule.models import Model, trained
from chainrule.runs import count_passes
from chainrule.scenes.base import COLOURS, SHAPES, SIZE_WORDS, Scene, Thing, render
from chainrule.scenes.judge import check, isolate, load_judge, probabilities, read
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

SEEDS, TUNING_SEEDS = 4, 2
AFTERWARDS = 32
"""How many images of the class word are drawn after a tuning."""
CLASS_PROMPT = "a {} on a white background"
STEPS = 20
SHADE = 0.8
"""A pixel this much darker than the thing's brightest lies on a stripe."""

Named = tuple[str, str, bool]
"""A thing: its shape, its colour, whether it is striped."""
THINGS: tuple[Named, ...] = (
    ("star", "red", True),
    ("heart", "pink", False),
    ("moon", "yellow", True),
    ("arrow", "green", False),
)
TUNING_THINGS: tuple[Named, ...] = (("cross", "orange", True), ("diamond", "cyan", False))
PLACES = (
    (32, 32, 20, 0, "white"),
    (36, 27, 16, 15, "black"),
    (27, 35, 18, -12, "gray"),
    (35, 36, 14, 8, "white"),
)
"""Where the thing stands in its pictures: x, y, radius, angle, background."""


# --- what is asked for ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Context:
    """Where a thing is wanted.

    Args:
        prompt: In words, with `{}` for the thing.
        scene: What it should look like.
    """

    prompt: str
    scene: Scene


def make_contexts(thing: Named) -> list[Context]:
    """Two backgrounds, two sizes, two other things beside it."""
    shape, colour, striped = thing

    def stand(x: float, y: float, radius: float) -> Thing:
        return Thing(shape, colour, x, y, radius, striped=striped)

    circle, square = Thing("circle", "blue", 48, 32, 12), Thing("square", "purple", 32, 48, 12)
    return [
        Context("a {} on a black background", Scene((stand(32, 32, 18),), "black")),
        Context("a {} on a gray background", Scene((stand(32, 32, 18),), "gray")),
        Context(
            "a small {} on a white background",
            Scene((stand(32, 32, 12),), "white", size_word="small"),
        ),
        Context(
            "a large {} on a gray background",
            Scene((stand(32, 32, 24),), "gray", size_word="large"),
        ),
        Context(
            "a {} left of a blue circle on a white background",
            Scene((stand(16, 32, 12), circle), "white", relation="left of"),
        ),
        Context(
            "a {} above a purple square on a black background",
            Scene((stand(32, 16, 12), square), "black", relation="above"),
        ),
    ]


def draw_pictures(thing: Named) -> tuple[Tensor, ...]:
    """The four pictures of a thing, each (3, 64, 64)."""
    shape, colour, striped = thing
    scenes = [
        Scene((Thing(shape, colour, x, y, radius, angle, striped),), background)
        for x, y, radius, angle, background in PLACES
    ]
    return tuple(from_pil([render(scene)])[0] for scene in scenes)


def make_cases(model: Model, things: Sequence[Named], seeds: Sequence[int]) -> list[Case]:
    """One for each thing: all of its contexts and seeds, and the class word afterwards."""
    return [
        Case(
            f"{' '.join(map(str, thing))}, {seeds[0]}-{len(seeds)}",
            tuple(range(len(make_contexts(thing)) * len(seeds))),  # how many images share the cost
            partial(_make_task, model, thing, tuple(seeds)),
        )
        for thing in things
    ]


def _make_task(model: Model, thing: Named, seeds: tuple[int, ...]) -> Task:
    prompts = tuple(context.prompt for context in make_contexts(thing))
    pictures = draw_pictures(thing)
    loss = ClipImage(load_guide(), pictures)
    # what a caption calls it is kept as the last prompt
    told = (*prompts, f"{thing[1]} shape")
    return Task(model, model.denoiser("a shape"), seeds, loss, prompts=told, pictures=pictures)


@cache
def load_guide() -> Clip:
    return load_clip()


# --- the methods ----------------------------------------------------------------------------------


def learn(task: Task, method: TextualInversion | DreamBooth) -> Result:
    """Learn the thing from its pictures, and draw it in all contexts; then its class."""
    *contexts, told = task.prompts
    if isinstance(method, DreamBooth):
        method = method.model_copy(update={"noun": told})
    asked = method.prepare(replace(task, prompts=tuple(contexts), loss=None))
    *_, last = method.run(asked)
    name = method.word if isinstance(method, TextualInversion) else method.name
    images = method.draw(asked, last, name_thing(contexts, name))
    if isinstance(method, TextualInversion):  # the model is as it was
        return _join(images, draw_class(task))
    with trained.use(task.model, method.part, last.values):
        return _join(images, draw_class(task))


def reward(task: Task, method: RewardTuning) -> Result:
    """Tune a LoRA until what is drawn of the thing's caption looks like its pictures."""
    *contexts, told = task.prompts
    prompts = tuple(name_thing(contexts, told))
    last = _finish(method, replace(task, prompts=prompts))
    with trained.use(task.model, method.part, last.values):
        images = draw_prompts(task, prompts, STEPS, None)
        return _join(images, draw_class(task))


def _finish(method: RewardTuning, task: Task) -> Training:
    *_, last = method.run(method.prepare(task))
    return last


def draw_each(task: Task, method: Method) -> Result:
    """Each context by itself, by a method that learns nothing."""
    *contexts, told = task.prompts
    images = []
    for prompt in name_thing(contexts, told):
        asked = replace(task, prompts=(prompt,), denoiser=task.model.denoiser(prompt), pictures=())
        images.append(method(asked).images)
    return _join(torch.stack(images), draw_class(task))


@torch.no_grad()
def draw_class(task: Task) -> Tensor:
    """What the class word gives, (N, 3, H, W)."""
    asked = replace(task, seeds=tuple(range(5000, 5000 + AFTERWARDS)))
    return draw_prompts(asked, name_thing([CLASS_PROMPT], task.prompts[-1]), STEPS, None)[0]


def _join(images: Tensor, afterwards: Tensor) -> Result:
    every = torch.cat([images.flatten(0, 1), afterwards]).detach()
    return Result(every, every, every)


RIVALS = Rivals("image")
WORD = use_preset(TextualInversion, "tuned")
BOOTH = use_preset(DreamBooth, "tuned").model_copy(
    update={"prior_images": 64, "iterations": 400, "optimiser": Adam(rate=2e-4, beta2=0.999)}
)
REWARD = use_preset(RewardTuning, "tuned").model_copy(
    update={"optimiser": Adam(rate=1e-3, beta2=0.999)}
)


def word_at(name: str, **changes: Any) -> Contender:
    return Contender(name, learn, {"method": WORD.model_copy(update=changes)})


def booth_at(name: str, **changes: Any) -> Contender:
    return Contender(name, learn, {"method": BOOTH.model_copy(update=changes)})


def reward_at(name: str, **changes: Any) -> Contender:
    return Contender(name, reward, {"method": REWARD.model_copy(update=changes)})


PLAIN = Contender("plain, told its colour", draw_each, {"method": Plain(steps=STEPS)})
EQUAL = 17
"""How many draws cost what an image of DreamBooth costs, its share of the training included."""
BEST = Contender(
    f"best of {EQUAL} (DreamBooth's cost)", draw_each, {"method": BestOf(count=EQUAL, steps=STEPS)}
)
SHORT = RIVALS.tuned.model_copy(update={"start_of": 8, "iterations": 2})
DOODL = Contender("DOODL (image=), DreamBooth's cost", draw_each, {"method": SHORT})
FULL = Contender("DOODL (image=), tuned", draw_each, {"method": RIVALS.tuned})
INVERSION = word_at("textual inversion")
PRIOR = booth_at("DreamBooth")
FORGETFUL = booth_at("DreamBooth, prior not preserved", prior=0.0)
LORA = booth_at("DreamBooth, LoRA", rank=8, iterations=200, optimiser=Adam(rate=3e-3, beta2=0.999))
EXACT = reward_at("reward tuning (image=), whole chain")
LAST = reward_at(
    "reward tuning (image=), last step", through="last", optimiser=Adam(rate=5e-3, beta2=0.999)
)
ALL = (PLAIN, INVERSION, PRIOR, FORGETFUL, LORA, LAST, EXACT, BEST, DOODL, FULL)
QUESTIONS = (
    (INVERSION, PLAIN),
    (PRIOR, PLAIN),
    (PRIOR, INVERSION),
    (PRIOR, FORGETFUL),
    (PRIOR, LORA),
    (EXACT, LAST),
    (EXACT, PLAIN),
    (PRIOR, DOODL),
    (PRIOR, BEST),
)


def adam(rate: float) -> Adam:
    return Adam(rate=rate, beta2=0.999)


WORDS = ((2, 0.02, 500), (4, 0.02, 500), (2, 0.05, 500), (4, 0.05, 1000))
BOOTHS = ((None, 1e-4, 300), (None, 2e-4, 200), (None, 2e-4, 400))
LORAS = ((8, 3e-3, 200), (8, 3e-3, 400))
REWARDS = (("chain", 1e-3), ("chain", 2e-3), ("last", 5e-3))
TUNING = (
    *(
        word_at(
            f"word, {vectors} vectors, rate {rate:g}, {count} iterations",
            vectors=vectors,
            optimiser=adam(rate),
            iterations=count,
        )
        for vectors, rate, count in WORDS
    ),
    *(
        booth_at(
            f"DreamBooth, rank {rank}, rate {rate:g}, {count} iterations",
            rank=rank,
            optimiser=adam(rate),
            iterations=count,
        )
        for rank, rate, count in (*BOOTHS, *LORAS)
    ),
    *(
        reward_at(f"reward, {through}, rate {rate:g}", optimiser=adam(rate), through=through)
        for through, rate in REWARDS
    ),
)


# --- the judge ------------------------------------------------------------------------------------


def is_striped(image: Tensor, colour: str) -> bool:
    """Whether the thing of a colour has darker parts, a sixth of it at least.

    Args:
        image: (3, 64, 64) in [0, 1].
        colour: The name of its colour.
    """
    pixels = image.permute(1, 2, 0)
    wanted = torch.tensor(COLOURS[colour]) / 255
    chroma = pixels.amax(-1) - pixels.amin(-1)
    direction = torch.nn.functional.cosine_similarity(pixels, wanted.expand_as(pixels), dim=-1)
    mine = (chroma > 0.15) & (direction > 0.95)
    if mine.sum() < 12:
        return False
    bright = pixels[mine].amax(-1)
    dark = (bright < SHADE * bright.quantile(0.9)).float().mean().item()
    return 1 / 6 < dark < 5 / 6


def has_size(image: Tensor, word: str | None, colour: str) -> bool:
    """Whether a single thing is as large as a word says, within a quarter."""
    if word is None:
        return True
    found = {thing.colour: thing for thing in read(image).things}
    if colour not in found:
        return False
    radius = math.sqrt(found[colour].area / math.pi)
    low, high = SIZE_WORDS[word]
    return radius <= 1.25 * high if word == "small" else radius >= 0.55 * low


@torch.no_grad()
def judge_images(made: Made, things: Sequence[Named], seeds: int) -> dict[str, np.ndarray]:
    """Whether thing, context and both are right, each (things * contexts, seeds)."""
    judge, found = load_judge(), []
    for thing, images in zip(things, made.images.unflatten(0, (len(things), -1)), strict=True):
        contexts = make_contexts(thing)
        shape, colour, striped = thing
        drawn = images[: len(contexts) * seeds].unflatten(0, (len(contexts), seeds))
        for context, row in zip(contexts, drawn, strict=True):
            word = context.scene.size_word
            right = [
                check(judge, context.scene, image).right and has_size(image, word, colour)
                for image in row
            ]
            alone = torch.stack([isolate(image, colour) for image in row])
            seen = probabilities(judge, alone).argmax(dim=1) == SHAPES.index(shape)
            coloured = torch.tensor(
                [colour in {t.colour for t in read(image).things} for image in row]
            )
            stripes = torch.tensor([is_striped(image, colour) == striped for image in row])
            this = seen & coloured & stripes
            where = torch.tensor(right)
            found.append(torch.stack([this, where, this & where, coloured, stripes & coloured]))
    values = torch.stack(found).numpy().astype(float)
    names = ("thing", "context", "both", "colour", "stripes")
    return {name: values[:, i] for i, name in enumerate(names)}


@torch.no_grad()
def count_shapes(made: Made, things: int) -> list[float]:
    """How many shapes the class word gives after each tuning: the exponential of their entropy."""
    judge, found = load_judge(), []
    for images in made.images.unflatten(0, (things, -1)):
        seen = Counter(probabilities(judge, images[-AFTERWARDS:]).argmax(dim=1).tolist())
        shares = [count / AFTERWARDS for count in seen.values()]
        found.append(math.exp(-sum(share * math.log(share) for share in shares)))
    return found


# --- the tables -----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "tuning", only=["plain", "textual"])
    options.add("--things", type=int, default=None, toy=1, help="how many of them")
    options.add("--seeds", type=int, default=None, toy=1, help="for each thing and context")
    arguments = options.parse(argv)
    tune = arguments.tune
    first, count = (10_000, TUNING_SEEDS) if tune else (0, SEEDS)
    count = arguments.seeds or count
    things = (TUNING_THINGS if tune else THINGS)[: arguments.things]
    model, passes = count_passes(chainrule.load())
    contest = Contest(passes, arguments.work, [SCENES.pipeline, SCENES.clip], toy=arguments.toy)
    cases = make_cases(model, things, range(first, first + count))
    played = contest.play(TUNING if tune else ALL, cases, arguments.only)
    verdicts = {each: judge_images(made, things, count) for each, made in played.items()}
    rows = []
    for contender, verdict in verdicts.items():
        shares = map(average_groups, verdict.values())
        made = played[contender]
        kept = np.mean(count_shapes(made, len(things)))
        rows.append([contender.name, verdict["both"].size, *shares, f"{kept:.1f}", *made.costs])
    header = ["method", "images", "thing", "context", "both", "its colour", "and stripes"]
    text = [
        f"## This very thing, elsewhere{', choosing on other things and seeds' if tune else ''}",
        f"`python benchmarks/tuning.py{' --tune' if tune else ''}` on {machine()}. {len(things)} "
        f"things from four pictures each, 6 contexts, {count} seeds; 95 % intervals over the pairs "
        "of thing and context. Shapes afterwards: the exponential of the entropy of the shapes "
        f"that the judge sees in {AFTERWARDS} images of the class ({CLASS_PROMPT!r}). A network "
        "pass is one guidance pair, forwards or backwards; what a tuning cost is shared by its "
        "images.",
        table([*header, "shapes afterwards", "network passes", "s per image"], rows),
    ]
    if not tune:
        for name in ("both", "thing", "context"):
            values = {contender: verdict[name] for contender, verdict in verdicts.items()}
            text += [f"Paired, {name} right:", tabulate_differences(values, QUESTIONS)]
        publish_picture(
            "tuning.png", partial(draw_sheet, things[0], played, count), dry=arguments.dry
        )
    publish("tuning-choice" if tune else "tuning", "\n\n".join(text), dry=arguments.dry)


def draw_sheet(thing: Named, made: Mapping[Contender, Made], seeds: int) -> Image.Image:
    """The first thing in all contexts, a row a method."""
    contexts = make_contexts(thing)
    columns = {
        context.prompt.replace("{}", "...")[:26]: torch.stack(
            [each.images[number * seeds] for each in made.values()]
        )
        for number, context in enumerate(contexts)
    }
    pictures = draw_pictures(thing)
    shown = torch.stack([pictures[row % len(pictures)] for row in range(len(made))])
    columns = {"a picture of it": shown, **columns}
    rows = [contender.name for contender in made]
    blank = {name: [""] * len(rows) for name in columns}
    return contact_sheet(columns, rows, blank, title="this very thing, elsewhere")


if __name__ == "__main__":
    main()
