"""The style of one picture of real artwork, given to pictures in other styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import editing
from artwork_world import (
    Asked,
    Edit,
    Report,
    Values,
    World,
    compare_pairs,
    draw_sheet,
    find_scenes,
    list_scenes,
    make_cases,
    make_task,
    order,
    shorten,
    tabulate,
)
from base import use_preset
from chainrule.losses import Features, Style, load_backbone
from chainrule.methods import DOODL, Result, SDEdit, StyleTask, Stylize, Task
from chainrule.methods.best_of import choose_best
from chainrule.methods.textual_inversion import VECTORS, TextualInversion
from chainrule.models import trained
from chainrule.sprites.artwork import STYLES
from chainrule.sprites.base import Scene
from contest import Case, Contender

EXAMPLES = 2
"""How many pictures show each style, each by itself."""
FIRST_EXAMPLE, FIRST_LEARNT = 10_000, 11_000
"""The first seeds of these, and of the captions that a LoRA is tuned on."""
LEARNT = 10
"""How many captions, and how many seeds with each, as in the paper."""
DRAWS, ITERATIONS = 21, 6
"""How many edits the best is taken of, and how long DOODL's optimisation is: an image then costs
about as much as its share of what `Stylize` costs."""
FURTHER = 1_000_000
"""From each of these draws' seeds to the next one's."""
HIDE = SDEdit(strength=0.7, eta=1.0)
"""How a picture is drawn again by what has learnt the style: as SDEdit was chosen to."""


@dataclass(frozen=True, eq=False)
class Group:
    """One picture, and those that are to have its style.

    Args:
        shown: The picture.
        number: Which it is.
        edits: The others: as they are, and as they should be.
    """

    shown: Scene
    number: int
    edits: list[Edit]


def make_groups(number: int, each: int) -> list[Group]:
    """So many pictures in turn in all styles, with so many edits for each."""
    found = []
    for i in range(number):
        style = list(STYLES)[i % len(STYLES)]
        (shown,) = list_scenes(1, FIRST_EXAMPLE + 10 * i, style=style)
        found.append(Group(shown, i, find_edits(style, each, 1000 * i)))
    return found


def find_edits(style: str, number: int, first: int) -> list[Edit]:
    """Pictures in other styles, in turn, of things that training has shown in this one too."""
    others = cycle([find_scenes(first, style=name) for name in STYLES if name != style])
    scenes = (next(source) for source in others)
    edits = (Edit(before, replace(before, style=style)) for before in scenes)
    return list(islice((edit for edit in edits if not edit.after.held_out), number))


def leave_open(scene: Scene) -> str:
    """What a scene shows, without its style."""
    return replace(scene, style_said=False).caption


def say(prompt: str, word: str) -> str:
    """A caption with a word where it would say the style."""
    return prompt.replace(" on a ", f" {word} on a ", 1)


# --- the methods ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ways:
    """The methods that learn from the picture, or are led by it.

    Args:
        style: What sees the style.
        content: What sees the content.
    """

    style: Features
    content: Features

    def stylize(self, task: Task, method: Stylize, edit: SDEdit, count: int) -> Result:
        """A LoRA that draws in the picture's style draws the pictures again."""
        prompts = tuple(map(leave_open, list_scenes(count, FIRST_LEARNT)))
        (picture,), seeds = task.pictures, tuple(range(count))
        asked = StyleTask(task.model, prompts, seeds, picture, self.style, self.content)
        for last in method.run(asked):
            if last.iteration % 20 == 0:
                print("Stylize", last.iteration, last.numbers, flush=True)
        with trained.use(task.model, method.part, last.values):
            return editing.edit_blindly(task, edit)

    def choose(self, task: Task, edit: SDEdit, count: int) -> Result:
        """The pictures, drawn again so many times: which are nearest to the picture's style."""
        shifts = range(0, count * FURTHER, FURTHER)
        seeds = [tuple(seed + shift for seed in task.seeds) for shift in shifts]
        made = [editing.edit_blindly(replace(task, seeds=each), edit) for each in seeds]
        return choose_best(made, Style(self.style, task.pictures[0]))

    def optimise(self, task: Task, method: DOODL, guidance_scale: float) -> Result:
        """The pictures' noise, until they have the picture's style."""
        asked = replace(task, loss=Style(self.style, task.pictures[0]))
        return editing.edit_blindly(asked, method, guidance_scale)


def say_learnt(task: Task, method: TextualInversion, edit: SDEdit) -> Result:
    """The picture's style as a word, and the pictures drawn again with it."""
    *prompts, template = task.prompts
    method = method.model_copy(update={"templates": (template,)})
    asked = method.prepare(replace(task, photo=None, prompts=(template,)))
    *_, last = method.run(asked)
    said = [say(prompt, method.word) for prompt in prompts]
    told = task.model.denoiser(method.read(asked, last.values[VECTORS])(said))
    return editing.edit_blindly(replace(task, denoiser=told, prompts=tuple(said)), edit)


WORD = use_preset(TextualInversion, "tuned").model_copy(update={"word": "<style>", "initial": ""})
WORDED = (editing.NOTHING, editing.BY_SDEDIT, editing.ATTENTION)
"""Those that are told the style's own word."""


def make_contenders(world: World) -> tuple[Contender, ...]:
    eyes = (load_backbone(world.weights / name, world.model.device) for name in GUIDES)
    ways = Ways(*eyes)
    doodl = use_preset(DOODL, "tuned", "style", photo=True)
    doodl = doodl.model_copy(update={"iterations": ITERATIONS})
    lora = {"method": Stylize(), "edit": HIDE, "count": LEARNT}
    return (
        *WORDED,
        Contender("SDEdit, no style told", editing.edit_blindly, {"method": HIDE}),
        Contender(f"best of {DRAWS} SDEdits (style=)", ways.choose, {"edit": HIDE, "count": DRAWS}),
        Contender("textual inversion", say_learnt, {"method": WORD, "edit": HIDE}),
        Contender("Stylize (AdjointDPM)", ways.stylize, lora),
        Contender(
            f"DOODL (style=), {ITERATIONS} iterations",
            ways.optimise,
            {"method": doodl, "guidance_scale": 1.5},
        ),
    )


GUIDES = ("clip", "classifier")


def list_cases(world: World, groups: Sequence[Group], contender: Contender) -> list[Case]:
    """One for each picture whose style is wanted."""
    found = []
    for group in groups:
        name = f"{group.shown.style}-{group.number}"
        make = partial(_make_task, contender in WORDED, group.shown)
        first = 1000 * group.number
        found += make_cases(world, name, group.edits, first, len(group.edits), make)
    return found


def _make_task(
    worded: bool, shown: Scene, world: World, edits: Sequence[Edit], seeds: tuple[int, ...]
) -> Task:
    """The pictures to be edited; the style's word is told, or the picture that has it is shown."""
    task = make_task(world, edits, seeds)
    if worded:
        return task
    prompts = tuple(leave_open(edit.after) for edit in edits)
    # how the picture's style may become a word is kept as the last prompt
    told = (*prompts, say(leave_open(shown), "{}"))
    denoiser, pictures = world.model.denoiser(prompts), tuple(world.draw([shown]))
    return replace(task, denoiser=denoiser, prompts=told, pictures=pictures)


# --- the table -----------------------------------------------------------------------------------


def judge(world: World, edits: Sequence[Edit], images: Tensor) -> dict[str, np.ndarray]:
    """Whether the style is the picture's and the thing is the same; both; and the ground."""
    found = world.judge([edit.after for edit in edits], images)
    return {
        "the picture's style": found["style"],
        "the same thing": found["thing"],
        "both": found["style"] * found["thing"],
        "ground": found["ground"],
    }


def make_report(asked: Asked) -> Report:
    world = asked.world
    groups = make_groups(*asked.share(EXAMPLES * len(STYLES)))
    edits = [edit for group in groups for edit in group.edits]
    contenders = make_contenders(world)
    (best_of,) = (each for each in contenders if each.name.startswith("best of"))
    made = asked.play(contenders, partial(list_cases, world, groups), GUIDES)
    values: Values = {each: judge(world, edits, found.images) for each, found in made.items()}
    truth = judge(world, edits, world.draw([edit.after for edit in edits]))["both"].mean()
    text = [
        "## The style of one picture of real artwork",
        f"{asked.command} {len(groups)} pictures, in all styles in turn, each with "
        f"{len(groups[0].edits)} fresh pictures of other things in the other styles, which are to "
        "have its style: each its own seed. The methods in the first rows are told the style's "
        "word; the others are shown the one picture, and told of the thing and the ground alone. "
        "The judges, which no method sees, say whether the style is the picture's and the thing "
        f"still the same; of true pictures of what is asked for, {truth:.2f} are right in both. "
        "95 % intervals over pictures. What was learnt from a picture is shared by its images. A "
        "network pass is one guidance pair, forwards or backwards.",
        tabulate(values, made),
        compare_pairs(values, "both", editing.BY_SDEDIT),
        compare_pairs(values, "both", best_of),
        order(values, "both"),
    ]
    shown = [len(groups[0].edits) * i + k for i in range(len(groups)) for k in range(2)]
    shown = [i for i in shown if i < len(edits)][:8]
    columns = {shorten(each): found.images[shown] for each, found in made.items()}
    return Report("\n\n".join(text), partial(_draw, world, groups, shown, columns))


def _draw(
    world: World, groups: Sequence[Group], shown: Sequence[int], made: dict[str, Tensor]
) -> Image.Image:
    each = len(groups[0].edits)
    edits = [groups[i // each].edits[i % each] for i in shown]
    rows = [f"{edit.before.style} > {edit.after.style}" for edit in edits]
    before = {
        "the picture": world.draw([edit.before for edit in edits]),
        "whose style": torch.cat([world.draw([groups[i // each].shown]) for i in shown]),
    }
    return draw_sheet("The style of one picture", rows, before, made)
