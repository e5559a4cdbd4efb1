"""A change learnt once, on pictures that were not seen: `python benchmarks/attributes.py`.

A method learns one change from 24 pictures, by CLIP's direction between two texts, and then edits
128 others. Which changes: those that the bundled CLIP tells apart best, found on other scenes (the
loss of pictures that were drawn as asked; it cannot tell one background from another). The judge
says whether what was asked for happened, and whether the rest stayed: the shape (or the colour),
the place to within four pixels, the background. SDEdit and Prompt-to-Prompt, which learn nothing,
are told each picture's caption and the wanted one.

DiffusionCLIP and Asyrp each train in two ways at equal network passes: by the exact gradient of the
finished image through the whole chain, and as their papers do, a step at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import chainrule
from base import machine, publish, publish_picture, table, use_preset
from chainrule.bundled import SCENES
from chainrule.images import contact_sheet, from_pil
from chainrule.losses import ImageClassifier
from chainrule.methods import Photo, Result, Task
from chainrule.methods.asyrp_trained import AsyrpTrained
from chainrule.methods.change import Changing
from chainrule.methods.diffusion_clip import DiffusionCLIP
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.scenes.base import SHAPES, Scene, render, sample_scene
from chainrule.scenes.judge import isolate, load_judge, read
from contest import (
    Case,
    Contender,
    Contest,
    Made,
    average_groups,
    make_options,
    tabulate_differences,
)
from editing import ATTENTION, BY_SDEDIT, is_near

LEARNT_FROM = 24
"""From how many pictures a change is learnt."""
AT_ONCE = 16


@dataclass(frozen=True)
class Change:
    """What a method learns.

    Args:
        what: "colour" or "shape".
        before: The word for what pictures show.
        after: The word for what they should show.
    """

    what: str
    before: str
    after: str

    @property
    def said(self) -> str:
        """As methods are told it."""
        noun = " shape" if self.what == "colour" else ""
        return f"a {self.before}{noun} > a {self.after}{noun}"

    def find(self, count: int, first: int) -> Iterator[Scene]:
        """Scenes of one thing that has what is to be changed, from the seed `first` on."""
        seed = first
        while count:
            scene = sample_scene(seed)
            seed += 1
            if len(scene.things) == 1:
                found = self._turn(scene, self.before)
                if not (found.held_out or self.make(found).held_out):
                    count -= 1
                    yield found

    def make(self, scene: Scene) -> Scene:
        """The scene as it should be."""
        return self._turn(scene, self.after)

    def _turn(self, scene: Scene, word: str) -> Scene:
        """The scene whose one thing is as a word says."""
        (thing,) = scene.things
        named = replace(thing, colour=word) if self.what == "colour" else replace(thing, shape=word)
        return Scene((named,), scene.background, scene.gradient)


CHANGES = (
    Change("colour", "cyan", "blue"),
    Change("colour", "pink", "red"),
    Change("shape", "circle", "triangle"),
)
LEARNT_AT, JUDGED_AT = 30_000, 0
"""The first seeds of the scenes that are learnt from, and of those that are judged."""


def draw_scenes(scenes: Sequence[Scene]) -> Tensor:
    """Their pictures (N, 3, 64, 64)."""
    return from_pil([render(scene) for scene in scenes])


def make_cases(model: Model, changes: Sequence[Change], count: int) -> list[Case]:
    """One for each change: its pictures, and `count` others."""
    return [
        Case(
            f"{change.before} to {change.after}, {count}",
            tuple(range(count)),
            partial(_make_task, model, change, count),
        )
        for change in changes
    ]


def _make_task(model: Model, change: Change, count: int) -> Task:
    seen = draw_scenes(list(change.find(LEARNT_FROM, LEARNT_AT)))
    scenes = list(change.find(count, JUDGED_AT))
    before = tuple(scene.caption for scene in scenes)
    after = tuple(change.make(scene).caption for scene in scenes)
    photo = Photo(draw_scenes(scenes), model.denoiser(before), (64, 64), prompts=before)
    seeds = tuple(range(count))
    # what is to be learnt is kept as one more prompt
    prompts = (*after, change.said)
    return Task(
        model, model.denoiser(after), seeds, None, photo, prompts=prompts, pictures=tuple(seen)
    )


# --- the methods ----------------------------------------------------------------------------------


def edit_told(task: Task, edit: Callable[..., Result], settings: dict[str, Any]) -> Result:
    """By a method that learns nothing, and is told captions."""
    task = replace(task, prompts=task.prompts[:-1], pictures=())
    parts = [edit(part, **settings) for _, part in task.split(AT_ONCE)]
    images = torch.cat([part.images for part in parts])
    return Result(images, images, images)


def edit_learnt(task: Task, method: Changing, *, trained: bool) -> Result:
    """By what a method learns of the change from its pictures, or before it has learnt anything."""
    *_, said = task.prompts
    method = method.model_copy(update={"change": said})
    photos = task.require_photo().images
    asked, state = method.prepare(replace(task, photo=None, prompts=())), None
    if trained:
        *_, state = method.run(asked)
    with torch.no_grad():
        x_t0 = Changing.gather(method, replace(asked, pictures=tuple(photos)))["x_t0"]
        with method.use(asked, state) as network:
            images = method.draw(asked, x_t0, network)
    return Result(images, images, images)


CLIP = use_preset(DiffusionCLIP, "tuned")
BOTTLENECK = use_preset(AsyrpTrained, "tuned")


def learnt_by(name: str, method: Changing, *, trained: bool = True, **changes: Any) -> Contender:
    settings = {"method": method.model_copy(update=changes), "trained": trained}
    return Contender(name, edit_learnt, settings)


def told(contender: Contender) -> Contender:
    asked = {"edit": contender.method, "settings": contender.settings}
    return Contender(contender.name, edit_told, asked)


UNTUNED = learnt_by("inverted and drawn again", CLIP, trained=False)
SDEDIT, ATTENTIVE = told(BY_SDEDIT), told(ATTENTION)
# at equal passes: by the chain a step costs three passes, by itself two; and one of Asyrp's steps
# by itself is an iteration
CHAIN = learnt_by("DiffusionCLIP, whole chain", CLIP, through="chain", iterations=80)
STEP = learnt_by("DiffusionCLIP, step by step", CLIP, through="step", iterations=120)
MOVED_CHAIN = learnt_by("Asyrp, whole chain", BOTTLENECK, through="chain", iterations=24)
MOVED_STEP = learnt_by("Asyrp, step by step", BOTTLENECK, through="step", iterations=360)
ALL = (UNTUNED, SDEDIT, ATTENTIVE, CHAIN, STEP, MOVED_CHAIN, MOVED_STEP)
QUESTIONS = (
    (CHAIN, STEP),
    (MOVED_CHAIN, MOVED_STEP),
    (CHAIN, MOVED_CHAIN),
    *((one, SDEDIT) for one in (CHAIN, STEP, MOVED_CHAIN, MOVED_STEP)),
    *((one, ATTENTIVE) for one in (CHAIN, STEP)),
)


# --- the judge ------------------------------------------------------------------------------------


@torch.no_grad()
def judge_changes(
    judge: ImageClassifier, change: Change, images: Tensor, count: int
) -> dict[str, np.ndarray]:
    """Whether each picture was changed, the rest kept, and both, (count,)."""
    changed, kept = [], []
    for scene, image in zip(change.find(count, JUDGED_AT), images, strict=True):
        aim = change.make(scene)
        (wanted,) = aim.things
        (true,) = read(draw_scenes([aim])[0]).things
        now = read(image)
        here = {thing.colour: thing for thing in now.things}
        coloured = set(here) == {wanted.colour}
        # whatever its colour, the thing that is there now has a shape and a place
        found = max(now.things, key=lambda thing: thing.area, default=None)
        alone = isolate(image, found.colour)[None] if found else image[None]
        shaped = found is not None and SHAPES[int(judge(alone).argmax())] == wanted.shape
        stays = is_near(found, true) and now.background == scene.background
        changed.append(coloured if change.what == "colour" else shaped)
        kept.append(stays and (shaped if change.what == "colour" else coloured))
    happened, stayed = np.array(changed, dtype=float), np.array(kept, dtype=float)
    return {"changed": happened, "kept": stayed, "both": happened * stayed}


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "attributes", tune=False, only=["inverted", "DiffusionCLIP"])
    options.add("--pictures", type=int, default=128, toy=2, help="how many others are edited")
    options.add("--changes", type=int, default=None, toy=1, help="how many of them")
    arguments = options.parse(argv)
    count, changes = arguments.pictures, CHANGES[: arguments.changes]
    model, passes = count_passes(chainrule.load())
    weights = [SCENES.pipeline, SCENES.clip]
    contest = Contest(passes, arguments.work, weights, toy=arguments.toy)
    played = contest.play(ALL, make_cases(model, changes, count), arguments.only)
    judge, verdicts = load_judge(), {}
    for contender, made in played.items():
        parts = [
            judge_changes(judge, change, images, count)
            for change, images in zip(changes, made.images.split(count), strict=True)
        ]
        verdicts[contender] = {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }
    rows = []
    for contender, verdict in verdicts.items():
        each = verdict["both"].reshape(len(changes), -1).mean(axis=1)
        shares = [average_groups(verdict[name]) for name in verdict]
        percent = [f"{100 * share:.0f}" for share in each]
        rows.append([contender.name, *shares, *percent, *played[contender].costs])
    names = [f"{change.before} to {change.after}" for change in changes]
    header = ["method", "changed", "kept", "both", *names, "network passes", "s per image"]
    both = {contender: verdict["both"] for contender, verdict in verdicts.items()}
    text = [
        "## A change learnt once, on unseen pictures",
        f"`python benchmarks/attributes.py` on {machine()}. {len(changes)} changes, each learnt "
        f"from {LEARNT_FROM} pictures and made in {count} others; 95 % intervals over pictures; "
        "the changes' columns are percent right in both. A network pass is one guidance pair, "
        "forwards or backwards; what learning cost is shared by the pictures, and the first row "
        "is what an edit costs without it.",
        table(header, rows),
        "Both, paired:",
        tabulate_differences(both, QUESTIONS),
        "![attributes](images/attributes.png)",
    ]
    publish_picture(
        "attributes.png", partial(draw_sheet, changes, played, count), dry=arguments.dry
    )
    publish("attributes", "\n\n".join(text), dry=arguments.dry)


def draw_sheet(
    changes: Sequence[Change], made: Mapping[Contender, Made], count: int
) -> Image.Image:
    """Two pictures of each change, a column a method."""
    rows = [i * count + j for i in range(len(changes)) for j in range(2)]
    given = torch.cat([draw_scenes(list(change.find(2, JUDGED_AT))) for change in changes])
    columns = {"the picture": given} | {
        contender.name.replace("DiffusionCLIP, ", ""): each.images[rows]
        for contender, each in made.items()
    }
    names = [f"{c.before} to {c.after}" if not j else "" for c in changes for j in range(2)]
    blank = {name: [""] * len(rows) for name in columns}
    return contact_sheet(columns, names, blank, "Changes learnt once, on unseen pictures")


if __name__ == "__main__":
    main()
