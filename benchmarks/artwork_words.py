"""Words edited on real artwork: a thing becomes another; its ground and its style are to stay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import editing
from artwork_world import (
    NAMED,
    Asked,
    Edit,
    Report,
    Values,
    World,
    compare_pairs,
    draw_sheet,
    list_scenes,
    make_cases,
    order,
    shorten,
    tabulate,
)
from chainrule.images import from_pil
from chainrule.sprites.base import Scene, paint_ground

CONTENDERS = (
    editing.NOTHING,
    editing.NEW,
    editing.BY_SDEDIT,
    editing.DDIM_EDIT,
    editing.EDICT_EDIT,
    editing.DIFFEDIT,
    editing.ATTENTION,
    editing.ATTENTION_EDICT,
)
"""With the settings that were chosen for the shapes."""
FAMILIES = ("SDEdit, ", "DDIM", "EDICT", "DiffEdit", "Prompt-to-Prompt")
TUNING = tuple(each for each in editing.TUNING if each.name.startswith(FAMILIES))
SHOWN = 8
"""How many edits are on the sheet."""


def change_thing(scene: Scene) -> Edit:
    """Another thing in the place of a scene's, as training has shown it."""
    (thing,), rng = scene.things, random.Random(scene.caption)
    while True:
        other = replace(thing, kind=rng.choice(NAMED))
        after = replace(scene, things=(other,))
        if other.phrase != thing.phrase and not after.held_out:
            return Edit(scene, after)


def find_outside(world: World, edits: Sequence[Edit]) -> Tensor:
    """Where the ground is before and after, (N, 1, 64, 64): 1 there, a seam of two pixels left."""
    inside = torch.zeros(len(edits), 1, 64, 64)
    for scenes in ([edit.before for edit in edits], [edit.after for edit in edits]):
        grounds = from_pil([paint_ground(scene.ground, scene.graded) for scene in scenes])
        away = (world.draw(scenes).cpu() - grounds).abs().amax(dim=1, keepdim=True)
        inside = torch.maximum(inside, (away > 0.02).float())
    return 1 - functional.max_pool2d(inside, 5, stride=1, padding=2)


def judge(world: World, edits: Sequence[Edit], images: Tensor) -> dict[str, np.ndarray]:
    """Whether the word is there, ground and style as before, all; and the ground's PSNR, in dB."""
    found = world.judge([edit.after for edit in edits], images)
    outside = find_outside(world, edits)
    before = world.draw([edit.before for edit in edits]).cpu()
    error = (outside * (images - before).square()).sum(dim=(1, 2, 3)) / (3 * outside.sum((1, 2, 3)))
    decibels = -10 * error.clamp(min=1e-6).log10()
    kept = found["ground"] * found["style"]
    return {
        "the new thing": found["thing"],
        "ground": found["ground"],
        "style": found["style"],
        "all": found["thing"] * kept,
        "ground, dB": decibels.numpy(),
    }


def make_report(asked: Asked) -> Report:
    world = asked.world
    edits = [change_thing(scene) for scene in list_scenes(asked.count, asked.first)]
    cases = make_cases(world, "words", edits, asked.first, asked.batch)
    made = asked.play(TUNING if asked.tune else CONTENDERS, cases)
    values: Values = {each: judge(world, edits, found.images) for each, found in made.items()}
    truth = judge(world, edits, world.draw([edit.after for edit in edits]).cpu())["all"].mean()
    text = [
        f"## Words edited on real artwork{', choosing on other pictures' if asked.tune else ''}",
        f"{asked.command} {len(edits)} fresh pictures of a single thing, scenes with seeds from "
        f"{asked.first}, each picture its own seed; another thing is asked for on the same ground "
        "in the same style. The judges, which no method sees, say whether it is there and whether "
        f"ground and style stayed; of true pictures of what is asked for they find {truth:.2f} "
        "right in all. The ground's PSNR is over what is ground before and after. 95 % intervals "
        "over pictures. Settings are those chosen for the bundled world of shapes. A network pass "
        "is one guidance pair.",
        tabulate(values, made),
    ]
    if not asked.tune:
        text.append(compare_pairs(values, "all", editing.BY_SDEDIT))
    text.append(order(values, "all"))
    shown = {shorten(each): found.images[:SHOWN] for each, found in made.items()}
    return Report("\n\n".join(text), partial(_draw, world, edits[:SHOWN], shown))


def _draw(world: World, edits: Sequence[Edit], made: dict[str, Tensor]) -> Image.Image:
    rows = [f"{each.before.things[0].phrase} > {each.after.things[0].phrase}" for each in edits]
    before = {"the picture": world.draw([edit.before for edit in edits])}
    return draw_sheet("One thing becomes another", rows, before, made)
