"""Photos there and back, and said differently (EDICT): `python benchmarks/inversion.py`.

First, what inversion and the autoencoder leave of pictures that training never drew, for each mix
and number of steps. Then 96 pictures of one thing are inverted under their captions and generated
under others: another colour (the shape, which often has no word, is to stay), or another of the
named shapes (the colour is to stay). The exact judge and another network say whether what was asked
for happened, and whether the rest stayed: the background, the colour or the shape, and the thing's
place to within four pixels. Beside EDICT: DDIM's inexact inversion, and the new caption alone. The
tuned settings were chosen on other pictures (`--tune`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

import chainrule
from base import machine, publish, table, use_preset
from chainrule import DDIM, EDICT
from chainrule.bundled import SCENES
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.diffusion.solvers import Solver
from chainrule.images import from_pil
from chainrule.losses import ImageClassifier
from chainrule.methods import DDIMInversion, EDICTEdit, Method, Photo, Plain, Result, Task
from chainrule.methods.inversion import measure_round_trip
from chainrule.metrics import psnr
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.scenes.base import COLOURS, NAMED_SHAPES, SHAPES, Scene, render, sample_scene
from chainrule.scenes.judge import isolate, load_judge, read
from contest import (
    Case,
    Contender,
    Contest,
    average_groups,
    make_options,
    tabulate_differences,
)

Change = Callable[[Scene], Scene]
Pairs = list[tuple[Scene, Scene]]
"""Scenes before and after a change."""

NEARBY_PIXELS = 4.0
SIZE = 16
"""Photos at a time."""


# --- there and back -------------------------------------------------------------------------------


def tabulate_round_trips(model: Model, photos: Tensor, lengths: Sequence[int]) -> str:
    """What comes back of photos by each solver, in each of some numbers of steps."""
    alone = model.denoiser("", guidance_scale=1.0)
    photo = Photo(photos, alone, (64, 64))
    task = Task(model, alone, tuple(range(len(photos))), None, photo)
    solvers: dict[str, Solver] = {f"EDICT, p = {p}": EDICT(mix=p) for p in (0.93, 0.97, 0.99)}
    solvers["DDIM"] = DDIM()
    rows = []
    for steps in lengths:
        for name, solver in solvers.items():
            single, double = (
                measure_round_trip(task, steps=steps, solver=solver, dtype=dtype)
                for dtype in (torch.float32, torch.float64)
            )
            drifts = (f"{each.error:.1e}" for each in (single, double))
            pair = f"{single.apart:.3f}", f"{single.spread:.3f}"
            back = psnr(single.images, photos).mean()
            rows.append([steps, name, *drifts, *pair, f"{back:.2f}"])
    with torch.no_grad():
        best = psnr(model.decode(model.encode(photos)), photos).mean()
    header = ["T", "solver", "drift, float32", "drift, float64", "pair apart", "spread"]
    said = f"The autoencoder alone: {best:.2f} dB."
    return f"{table([*header, 'PSNR, dB'], rows)}\n\n{said}"


# --- said differently -----------------------------------------------------------------------------


def recolour(scene: Scene) -> Scene:
    thing, rng = scene.things[0], random.Random(scene.caption)
    colour = rng.choice([colour for colour in COLOURS if colour != thing.colour])
    return replace(scene, things=(replace(thing, colour=colour),))


def reshape(scene: Scene) -> Scene:
    thing, rng = scene.things[0], random.Random(scene.caption)
    shape = rng.choice([shape for shape in NAMED_SHAPES if shape != thing.shape])
    return replace(scene, things=(replace(thing, shape=shape),))


def find_scenes(change: Change, count: int, first: int) -> Iterator[tuple[Scene, Scene]]:
    """Scenes of one thing and what is to become of them; none is held out.

    Only named shapes are reshaped: of the others, the caption does not say what is to go.

    Args:
        change: What is to happen.
        count: How many.
        first: The seed of the first scene that is tried.
    """
    seed = first
    while count:
        scene = sample_scene(seed, single=True)
        seed += 1
        asked = change(scene)
        can_change = change is recolour or scene.things[0].shape in NAMED_SHAPES
        if not asked.held_out and can_change:
            count -= 1
            yield scene, asked


def edit_guided(task: Task, method: Method, guidance_scale: float) -> Result:
    """An edit with another guidance scale, both ways."""
    photo = task.require_photo()
    photo = replace(photo, denoiser=_guide(photo.denoiser, guidance_scale))
    denoiser = _guide(task.denoiser, guidance_scale)
    result: Result = method(replace(task, denoiser=denoiser, photo=photo))
    return result


def _guide(denoiser: Denoiser, guidance_scale: float) -> Denoiser:
    if not isinstance(denoiser, ClassifierFree):
        raise TypeError("only classifier-free guidance has a scale")
    return replace(denoiser, guidance_scale=guidance_scale)


def draw_caption(task: Task, method: Plain) -> Result:
    """The new caption, without the photo."""
    return method(replace(task, photo=None))


def edit_at(name: str, guidance_scale: float, method: Method) -> Contender:
    return Contender(name, edit_guided, {"guidance_scale": guidance_scale, "method": method})


TUNED = use_preset(EDICTEdit, "tuned", photo=True)
TUNED_SCALE = 1.5
"""The guidance scale of edits in the bundled world (`Model.photo_scale`)."""
BY_EDICT = edit_at("EDICT tuned", TUNED_SCALE, TUNED)
CONTENDERS = (
    Contender(
        "the new caption, without the photo", draw_caption, {"method": Plain(steps=TUNED.steps)}
    ),
    edit_at(
        "DDIM, as EDICT tuned",
        TUNED_SCALE,
        DDIMInversion(strength=TUNED.strength, steps=TUNED.steps),
    ),
    edit_at("EDICT, the paper's settings", 3.0, EDICTEdit(strength=0.8, steps=50)),
    BY_EDICT,
)
QUESTIONS = tuple((BY_EDICT, other) for other in CONTENDERS[:-1])
TUNING = tuple(
    edit_at(
        f"EDICT, guidance {scale:g}, strength {strength:g}",
        scale,
        TUNED.model_copy(update={"strength": strength}),
    )
    for scale in (1.5, 2.0, 3.0)
    for strength in (0.4, 0.5, 0.6, 0.7, 0.8)
)


def make_cases(model: Model, kind: str, pairs: Pairs, first: int) -> list[Case]:
    """The edits of a kind, some at a time; their seeds begin at `first`."""
    found = []
    for start in range(0, len(pairs), SIZE):
        some = pairs[start : start + SIZE]
        seeds = tuple(range(first + start, first + start + len(some)))
        task = partial(_make_task, model, some, seeds)
        found.append(Case(f"{kind}-{seeds[0]}-{len(seeds)}", seeds, task))
    return found


def _make_task(model: Model, pairs: Pairs, seeds: tuple[int, ...]) -> Task:
    before, after = (tuple(scene.caption for scene in each) for each in zip(*pairs, strict=True))
    images = from_pil([render(scene) for scene, _ in pairs])
    photo = Photo(images, model.denoiser(before), (64, 64), prompts=before)
    return Task(model, model.denoiser(after), seeds, None, photo, prompts=after)


@torch.no_grad()
def judge_edits(
    judge: ImageClassifier, change: Change, pairs: Pairs, images: Tensor
) -> dict[str, np.ndarray]:
    """For each photo, (photos,): whether it is as asked, whether the rest stayed, and both."""
    asked, stayed = [], []
    aims = from_pil([render(scene) for _, scene in pairs])
    for (_, scene), image, aim in zip(pairs, images, aims, strict=True):
        now, wanted, thing = read(image), read(aim).things[0], scene.things[0]
        colour = [each.colour for each in now.things] == [thing.colour]
        seen = int(judge(isolate(image, thing.colour)[None]).argmax())
        shape = SHAPES[seen] == thing.shape
        place = any(
            math.hypot(each.x - wanted.x, each.y - wanted.y) < NEARBY_PIXELS for each in now.things
        )
        kept = shape if change is recolour else colour
        asked.append(colour if change is recolour else shape)
        stayed.append(kept and place and now.background == scene.background)
    happened, rest = np.array(asked, dtype=float), np.array(stayed, dtype=float)
    return {"as asked": happened, "the rest stayed": rest, "both": happened * rest}


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "inversion")
    options.add("--photos", type=int, default=96, toy=2, help="for each kind of edit")
    help_ = "the numbers of steps of the first table"
    options.add("--steps", type=int, nargs="+", default=[20, 50], toy=[2], help=help_)
    arguments = options.parse(argv)
    tune, count = arguments.tune, arguments.photos
    first, judge = 10_000 if tune else 0, load_judge()
    model, passes = count_passes(chainrule.load())
    contest = Contest(passes, arguments.work, [SCENES.pipeline], toy=arguments.toy)
    command = f"python benchmarks/inversion.py --photos {count}{' --tune' if tune else ''}"
    text = [
        f"## Inversion, and editing by words{', choosing on other photos' if tune else ''}",
        f"`{command}` on {machine()}. Pictures of one thing with seeds from {first}; 95 % "
        "intervals over pictures; a network pass is one guidance pair.",
    ]
    if not tune:
        photos = from_pil([render(sample_scene(seed)) for seed in range(min(SIZE, count))])
        text += [
            f"{len(photos)} photos there and back without a prompt, in float32 but for the second "
            "column of drifts (|z' - z| / |z| of the latents); apart is |x - y| / |x| of EDICT's "
            "pair at the noisy end, spread the standard deviation there (1: the noise that the "
            "network knows).",
            tabulate_round_trips(model, photos, arguments.steps),
        ]
    kinds = (("Another colour", "recoloured", recolour), ("Another shape", "reshaped", reshape))
    for title, kind, change in kinds:
        pairs = list(find_scenes(change, count, first))
        cases = make_cases(model, kind, pairs, first)
        played = contest.play(TUNING if tune else CONTENDERS, cases, arguments.only)
        verdicts = {c: judge_edits(judge, change, pairs, m.images) for c, m in played.items()}
        rows = [
            [c.name, count, *map(average_groups, verdict.values()), *played[c].costs]
            for c, verdict in verdicts.items()
        ]
        header = ["method", "images", "as asked", "the rest stayed", "both"]
        text += [f"### {title}", table([*header, "network passes", "s per image"], rows)]
        if not tune:
            both = {contender: verdict["both"] for contender, verdict in verdicts.items()}
            text += ["Both, paired:", tabulate_differences(both, QUESTIONS)]
    publish("inversion-tuning" if tune else "inversion", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
