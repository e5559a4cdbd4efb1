"""Edits by words, by the methods that tune for each: `python benchmarks/tuned_edits.py`.

The edits of `benchmarks/editing.py` and its judges: another colour, another shape, a thing more,
another background, a hole filled. Each method is given the picture, its caption and the wanted
caption, and no mask. Imagic, UniTune and DiffusionCLIP tune the network anew for each picture;
DiffusionCLIP and Asyrp by CLIP's direction between the captions, on the picture alone or on seven
more that the model draws of its caption; SDEdit and Prompt-to-Prompt tune nothing. Settings were
chosen on other pictures (`--tune`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image

import chainrule
from base import machine, publish, publish_picture, use_preset
from chainrule.bundled import SCENES
from chainrule.images import contact_sheet
from chainrule.methods import Adam, Method, Result, Task
from chainrule.methods.asyrp_trained import AsyrpTrained
from chainrule.methods.change import Changing
from chainrule.methods.diffusion_clip import DiffusionCLIP
from chainrule.methods.imagic import Imagic
from chainrule.methods.thing import draw_latents
from chainrule.methods.training import Training
from chainrule.methods.unitune import UniTune
from chainrule.runs import count_passes
from chainrule.scenes.judge import load_judge
from contest import Contender, Contest, Made, make_options, tabulate_differences
from editing import (
    ATTENTION,
    BY_SDEDIT,
    KINDS,
    NOTHING,
    Edit,
    ask_edits,
    drop_mask,
    judge_edits,
    make_cases,
    set_scale,
    tabulate_edits,
)

SIZE = 2
"""Pictures at a time: what a stopped benchmark has to do again."""


# --- the methods ----------------------------------------------------------------------------------


def edit_each(
    task: Task, method: Method, edit: Callable[[Task, Any], torch.Tensor], scale: float | None
) -> Result:
    """Each picture by itself, without its mask.

    Args:
        task: The pictures.
        method: What edits them.
        edit: Makes the image (1, 3, H, W) of one.
        scale: Another guidance scale.
    """
    task = drop_mask(task if scale is None else set_scale(task, scale))
    images = torch.cat([edit(task.select([i]), method).detach() for i in range(len(task.seeds))])
    return Result(images, images, images)


def edit_photo(task: Task, method: Imagic | UniTune) -> torch.Tensor:
    """A method that is made to edit a photo."""
    return method(task).images


def edit_at_etas(task: Task, method: Imagic) -> torch.Tensor:
    """Imagic at an eta, from a training that all etas share: for choosing one."""
    asked = method.prepare(task)
    key = (task.seeds, task.prompts, method.model_copy(update={"eta": 0.0}).model_dump_json())
    if key not in SHARED:
        *_, SHARED[key] = method.run(asked)
    return method.result(asked, SHARED[key]).images


SHARED: dict[object, Training] = {}


def edit_by_direction(task: Task, method: Changing, drawn: int) -> torch.Tensor:
    """A method that learns a change from pictures: of the photo, and what the model draws so.

    Args:
        task: One photo.
        method: What learns it.
        drawn: How many pictures of the photo's caption the model draws.
    """
    photo = task.require_photo()
    (before,), (after,) = photo.prompts, task.prompts
    method = method.model_copy(update={"change": f"{before} > {after}"})
    pictures = photo.images
    if drawn:
        latents = draw_latents(task, before, range(DRAWN_AT, DRAWN_AT + drawn), 20, None)
        pictures = torch.cat([pictures, task.model.decode(latents)])
    asked = method.prepare(replace(task, photo=None, pictures=tuple(pictures)))
    *_, last = method.run(asked)
    with torch.no_grad(), method.use(asked, last) as network:
        return method.draw(asked, last.given["x_t0"][:1], network)


DRAWN_AT = 50_000
"""The first seed of what a change is learnt from."""


def tune_at(
    name: str, method: Method, scale: float | None = None, edit: Any = edit_photo
) -> Contender:
    return Contender(name, edit_each, {"method": method, "edit": edit, "scale": scale})


def imagic_at(
    eta: float, learnt: int, tuned: int, rate: float, edit: Any = edit_photo
) -> Contender:
    changes = {
        "eta": eta,
        "embedding_iterations": learnt,
        "iterations": tuned,
        "optimiser": Adam(rate=rate, beta2=0.999),
    }
    name = f"Imagic, {learnt} and {tuned} iterations, rate {rate:g}, eta {eta:g}"
    method = use_preset(Imagic, "tuned", photo=True).model_copy(update=changes)
    return tune_at(name, method, edit=edit)


def unitune_at(strength: float, iterations: int, scale: float | None) -> Contender:
    changes = {"strength": strength, "iterations": iterations}
    name = f"UniTune, {iterations} iterations, strength {strength:g}, guidance {scale or 'own'}"
    return tune_at(name, use_preset(UniTune, "tuned", photo=True).model_copy(update=changes), scale)


def count_pictures(drawn: int) -> str:
    """What a change is learnt from, in words."""
    return f"{1 + drawn} pictures" if drawn else "the picture"


def direction_at(drawn: int, iterations: int, rate: float, start: float) -> Contender:
    changes = {
        "through": "chain",
        "iterations": iterations,
        "start": start,
        "batch": 4 if drawn else 1,
        "optimiser": Adam(rate=rate, beta2=0.999),
    }
    method = use_preset(DiffusionCLIP, "tuned").model_copy(update=changes)
    name = f"DiffusionCLIP, {count_pictures(drawn)}, {iterations} iterations, rate {rate:g}, "
    edit = partial(edit_by_direction, drawn=drawn)
    return tune_at(f"{name}to {start:g}", method, edit=edit)


def moved_at(drawn: int, iterations: int, rate: float) -> Contender:
    size, optimiser = 4 if drawn else 1, Adam(rate=rate, beta2=0.999)
    changes = {"iterations": iterations, "batch": size, "optimiser": optimiser}
    method = use_preset(AsyrpTrained, "tuned").model_copy(update=changes)
    name = f"Asyrp, {count_pictures(drawn)}, {iterations} iterations, rate {rate:g}"
    return tune_at(name, method, edit=partial(edit_by_direction, drawn=drawn))


TUNING = (
    BY_SDEDIT,
    *(
        imagic_at(eta, learnt, 100, rate, edit_at_etas)
        for learnt, rate in ((100, 1e-4), (50, 3e-4))
        for eta in (0.6, 0.8, 1.0, 1.3)
    ),
    *(
        unitune_at(strength, count, scale)
        for strength in (0.6, 0.8)
        for count in (16, 48)
        for scale in (None, 6.0)
    ),
    *(direction_at(0, 12, rate, start) for rate in (3e-4, 1e-3) for start in (0.6, 0.8)),
    *(direction_at(7, 20, *found) for found in ((1e-4, 0.8), (3e-4, 0.8), (3e-4, 0.6))),
    *(moved_at(0, 36, rate) for rate in (1e-2, 3e-2)),
    *(moved_at(7, count, 3e-3) for count in (40, 120)),
)
IMAGIC = imagic_at(1.0, 100, 100, 1e-4)
UNITUNE = unitune_at(0.6, 16, 6.0)
DIRECTION = direction_at(0, 12, 3e-4, 0.8)
MOVED = moved_at(7, 40, 3e-3)
ALL = (
    NOTHING,
    BY_SDEDIT,
    ATTENTION,
    UNITUNE,
    IMAGIC,
    DIRECTION,
    MOVED,
)
QUESTIONS = (
    *((one, BY_SDEDIT) for one in (UNITUNE, IMAGIC, DIRECTION, MOVED)),
    *((one, ATTENTION) for one in (UNITUNE, IMAGIC)),
    (IMAGIC, UNITUNE),
)


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "tuned-edits", only=["nothing", "UniTune"])
    options.add("--edits", type=int, default=24, toy=1, help="of each kind")
    options.add("--kinds", nargs="+", choices=KINDS, default=[*KINDS], toy=["recolour"])
    arguments = options.parse(argv)
    tune, count, kinds = arguments.tune, arguments.edits, arguments.kinds
    first = 10_000 if tune else 0
    model, passes = count_passes(chainrule.load())
    asked = ask_edits(kinds, count, first)
    every = [edit for some in asked.values() for edit in some]
    work = arguments.work / ("tuning" if tune else "final")
    contest = Contest(passes, work, [SCENES.pipeline, SCENES.clip], toy=arguments.toy)
    cases = make_cases(model, asked, SIZE)
    played = contest.play(TUNING if tune else ALL, cases, arguments.only)
    judge = load_judge()
    verdicts = {c: judge_edits(judge, every, made.images) for c, made in played.items()}
    command = f"python benchmarks/tuned_edits.py --edits {count}{' --tune' if tune else ''}"
    text = [
        f"## Edits by tuning{', choosing on other pictures' if tune else ''}",
        f"`{command}` on {machine()}. {count} edits of each of {len(asked)} kinds, those of "
        f"`benchmarks/editing.py`, scenes with seeds from {first}; 95 % intervals over edits; the "
        "kinds' columns are percent right in both. A network pass is one guidance pair, forwards "
        "or backwards; tuning is counted.",
        tabulate_edits([*asked], verdicts, played),
    ]
    if not tune:
        both = {contender: verdict["both"] for contender, verdict in verdicts.items()}
        text += ["Both, paired:", tabulate_differences(both, QUESTIONS)]
        text += ["![edits](images/tuned-edits.png)"]
        publish_picture("tuned-edits.png", partial(draw_sheet, asked, played), dry=arguments.dry)
    publish("tuned-edits-choice" if tune else "tuned-edits", "\n\n".join(text), dry=arguments.dry)


def draw_sheet(asked: Mapping[str, list[Edit]], made: Mapping[Contender, Made]) -> Image.Image:
    """The first edit of each kind: a column for each method."""
    count = len(next(iter(asked.values())))
    index = [i * count for i in range(len(asked))]
    every = [edit for some in asked.values() for edit in some]
    columns = {"the picture": torch.stack([every[i].picture for i in index])}
    for contender, found in made.items():
        columns[contender.name.split(",")[0]] = found.images[index]
    wanted = [every[i].after.caption.removesuffix(" background") for i in index]
    captions = {name: [""] * len(index) for name in columns} | {"the picture": wanted}
    return contact_sheet(columns, list(asked), captions, "Edits by words, tuned for each picture")


if __name__ == "__main__":
    main()
