"""Photos there and back, and said differently (EDICT): `python benchmarks/inversion.py`.

First, what inversion and the autoencoder leave of pictures that training never drew, for each mix and number of steps.
Then 96 pictures of one thing are invert_photos under their captions and generated under others: another colour (the shape,
which often has no word, is to stay), or another of the named shapes (the colour is to stay). The exact judge and
another network say whether what was asked for happened, and whether the rest stayed: the background, the colour or the
shape, and the thing's place to within four pixels. PairedDenoiser EDICT: DDIM's inexact inversion, and the new caption alone.
The tuned settings were chosen on other pictures (`--tune`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule import EDICT, bundled
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.losses.classifier import ImageClassifier
from chainrule.methods import Photo, Result, Task, edict, plain
from chainrule.methods.edict import round_trip
from chainrule.methods.presets import preset
from chainrule.metrics import psnr
from chainrule.models import Model
from chainrule.pictures import from_pil
from chainrule.scenes.base import COLOURS, NAMED_SHAPES, SHAPES, Scene, render, sample_scene
from chainrule.scenes.judge import isolate, load_judge, read
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.ddim import DDIM
from contest import Case, Contender, Contest, differences, options, over_groups

Change = Callable[[Scene], Scene]

NEARBY_PIXELS = 4.0
SIZE = 16
"""Photos at a time."""


# --- there and back ---------------------------------------------------------------------------------------------


def there_and_back(model: Model, photos: Tensor) -> str:
    alone = model.denoiser("", guidance_scale=1.0)
    task = Task(model, alone, tuple(range(len(photos))), None, Photo(photos, alone, (64, 64)))
    solvers: dict[str, Solver] = {f"EDICT, p = {mix}": EDICT(mix=mix) for mix in (0.93, 0.97, 0.99)} | {"DDIM": DDIM()}
    rows = []
    for steps in (20, 50):
        for name, solver in solvers.items():
            single, double = (
                round_trip(task, steps=steps, solver=solver, dtype=dtype) for dtype in (torch.float32, torch.float64)
            )
            drifts = (f"{each.error:.1e}" for each in (single, double))
            back = psnr(single.images, photos).mean()
            rows.append([steps, name, *drifts, f"{single.apart:.3f}", f"{single.spread:.3f}", f"{back:.2f}"])
    with torch.no_grad():
        best = psnr(model.decode(model.encode(photos)), photos).mean()
    header = ["T", "solver", "drift, float32", "drift, float64", "pair apart", "spread", "PSNR, dB"]
    return table(header, rows) + f"\n\nThe autoencoder alone: {best:.2f} dB."


# --- said differently -------------------------------------------------------------------------------------------


def recoloured(scene: Scene) -> Scene:
    thing, rng = scene.things[0], random.Random(scene.caption)
    colour = rng.choice([colour for colour in COLOURS if colour != thing.colour])
    return replace(scene, things=(replace(thing, colour=colour),))


def reshaped(scene: Scene) -> Scene:
    thing, rng = scene.things[0], random.Random(scene.caption)
    shape = rng.choice([shape for shape in NAMED_SHAPES if shape != thing.shape])
    return replace(scene, things=(replace(thing, shape=shape),))


def scenes(change: Change, count: int, first: int) -> Iterator[tuple[Scene, Scene]]:
    """`count` scenes of one thing, from the scene seed `first`, and what is to become of them; none is held out.

    Only named shapes are reshaped: of the others, the caption does not say what is to go.
    """
    seed = first
    while count:
        scene = sample_scene(seed, single=True)
        seed += 1
        asked = change(scene)
        if not asked.held_out and (change is recoloured or scene.things[0].shape in NAMED_SHAPES):
            count -= 1
            yield scene, asked


def by_words(task: Task, guidance_scale: float, strength: float, steps: int, solver: Solver) -> Result:
    """`chainrule.methods.edict` with a guidance scale, both ways."""
    photo = replace(task.edited(), denoiser=_at(task.edited().denoiser, guidance_scale))
    task = replace(task, denoiser=_at(task.denoiser, guidance_scale), photo=photo)
    return edict(task, strength=strength, steps=steps, solver=solver)


def _at(denoiser: Denoiser, guidance_scale: float) -> Denoiser:
    if not isinstance(denoiser, ClassifierFree):
        raise TypeError("only classifier-free guidance has a scale")
    return replace(denoiser, guidance_scale=guidance_scale)


def edict_at(name: str, guidance_scale: float, strength: float, steps: int, solver: Solver) -> Contender:
    settings = {"guidance_scale": guidance_scale, "strength": strength, "steps": steps, "step": solver}
    return Contender(name, by_words, settings)


TUNED = preset("tuned", photo=True)
STEPS, STEP = TUNED.doodl.steps, TUNED.doodl.step
ALONE = Contender("the new caption, without the photo", plain, {"steps": STEPS})
FAITHFUL = edict_at("EDICT, the paper's settings", 3.0, 0.8, 50, EDICT())
BY_EDICT = edict_at("EDICT tuned", TUNED.guidance_scale, TUNED.strength, STEPS, STEP)
BY_DDIM = edict_at("DDIM, as EDICT tuned", TUNED.guidance_scale, TUNED.strength, STEPS, DDIM())
CONTENDERS = (ALONE, BY_DDIM, FAITHFUL, BY_EDICT)
QUESTIONS = tuple((BY_EDICT, other) for other in CONTENDERS[:-1])
TUNING = tuple(
    edict_at(f"EDICT, guidance {scale:g}, strength {strength:g}", scale, strength, STEPS, STEP)
    for scale in (1.5, 2.0, 3.0)
    for strength in (0.4, 0.5, 0.6, 0.7, 0.8)
)


def cases(model: Model, change: Change, pairs: list[tuple[Scene, Scene]], first: int) -> list[Case]:
    found = []
    for start in range(0, len(pairs), SIZE):
        some = pairs[start : start + SIZE]
        seeds = tuple(range(first + start, first + start + len(some)))
        found.append(Case(f"{change.__name__}-{seeds[0]}-{len(seeds)}", seeds, partial(_task, model, some, seeds)))
    return found


def _task(model: Model, pairs: list[tuple[Scene, Scene]], seeds: tuple[int, ...]) -> Task:
    before, after = zip(*pairs, strict=True)
    photo = Photo(
        from_pil([render(scene) for scene in before]), model.denoiser([scene.caption for scene in before]), (64, 64)
    )
    return Task(model, model.denoiser([scene.caption for scene in after]), seeds, None, photo)


@torch.no_grad()
def loss_and_gradient(
    judge: ImageClassifier, change: Change, pairs: list[tuple[Scene, Scene]], images: Tensor
) -> dict[str, np.ndarray]:
    """For each photo, (photos,): whether what was asked for happened, whether the rest stayed, and both."""
    asked, stayed = [], []
    for (_, scene), image, aim in zip(pairs, images, from_pil([render(scene) for _, scene in pairs]), strict=True):
        now, wanted, thing = read(image), read(aim).things[0], scene.things[0]
        colour = [each.colour for each in now.things] == [thing.colour]
        shape = SHAPES[int(judge(isolate(image, thing.colour)[None]).argmax())] == thing.shape
        place = any(math.hypot(each.x - wanted.x, each.y - wanted.y) < NEARBY_PIXELS for each in now.things)
        asked.append(colour if change is recoloured else shape)
        stayed.append((shape if change is recoloured else colour) and place and now.background == scene.background)
    happened, rest = np.array(asked, dtype=float), np.array(stayed, dtype=float)
    return {"as asked": happened, "the rest stayed": rest, "both": happened * rest}


def main() -> None:
    parser = options(__doc__, "inversion")
    parser.add_argument("--photos", type=int, default=96, help="for each kind of edit")
    arguments = parser.parse_args()
    tune, count = arguments.tune, arguments.photos
    first = 10_000 if tune else 0
    model, judge = chainrule.load(), load_judge()
    contest = Contest(model, arguments.work, [bundled.PIPELINE])
    text = [
        f"## Inversion, and editing by words{', choosing on other photos' if tune else ''}",
        f"`python benchmarks/inversion.py --photos {count}{' --tune' if tune else ''}` on {machine()}. Pictures of one "
        f"thing with seeds from {first}; 95 % intervals over pictures; a network pass is one guidance pair.",
    ]
    if not tune:
        text += [
            f"{SIZE} photos there and back without a prompt, in float32 but for the second column of drifts "
            "(|z' - z| / |z| of the latents); apart is |x - y| / |x| of EDICT's pair at the noisy end, spread the "
            "standard deviation there (1: the noise that the network knows).",
            there_and_back(model, from_pil([render(sample_scene(seed)) for seed in range(SIZE)])),
        ]
    for title, change in (("Another colour", recoloured), ("Another shape", reshaped)):
        pairs, rows = list(scenes(change, count, first)), []
        played = contest.play(TUNING if tune else CONTENDERS, cases(model, change, pairs, first), arguments.only)
        verdicts = {contender: loss_and_gradient(judge, change, pairs, made.images) for contender, made in played.items()}
        rows = [
            [c.name, count, *map(over_groups, verdict.values()), *played[c].costs] for c, verdict in verdicts.items()
        ]
        header = ["method", "images", "as asked", "the rest stayed", "both", "network passes", "s per image"]
        text += [f"### {title}", table(header, rows)]
        if not tune:
            text += ["Both, paired:", differences({c: verdict["both"] for c, verdict in verdicts.items()}, QUESTIONS)]
    publish("inversion-tuning" if tune else "inversion", "\n\n".join(text))


if __name__ == "__main__":
    main()
