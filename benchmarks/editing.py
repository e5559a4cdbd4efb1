"""Every editing method on the same pictures, loss_and_gradient exactly: `python benchmarks/editing.py`.

Pictures of the bundled world that training never drew, five kinds of edit: another colour for one of two things,
another (named) shape for one of them, a thing more, another background, and a hole to be filled with a thing. The exact
judge and the judging network say whether what was asked for is there, and whether the rest stayed: the other thing's
colour, shape and place (to within four pixels), what was not asked to change of the thing itself, and the background.
PairedDenoiser it, how far the picture moved where nothing was to change, in pixels and in the judge's features. Methods that
take a mask are given the box around what differs; the others find their own way. Settings were chosen on other pictures
(`--tune`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import chainrule
from base import machine, publish, table
from chainrule import EDICT, bundled
from chainrule.diffusion.control import Towards
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.guidance import semantic as by
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.losses import Call, Perceptual, load_backbone, load_clip
from chainrule.losses.classifier import ImageClassifier
from chainrule.losses.clip import spherical_distance
from chainrule.methods import (
    Attention,
    Photo,
    Result,
    Task,
    asyrp,
    blended,
    diffedit,
    edict,
    ilvr,
    masked,
    plain,
    prompt_to_prompt,
    repaint,
    sdedit,
    semantic,
)
from chainrule.methods.base import untouched
from chainrule.models import Model
from chainrule.models.noise_aware import load_noise_aware_encoder
from chainrule.pictures import from_pil, grid
from chainrule.scenes.base import BACKGROUNDS, COLOURS, NAMED_SHAPES, SHAPES, Scene, render, sample_scene
from chainrule.scenes.judge import Seen, isolate, load_judge, read, related
from chainrule.diffusion.solvers import DDIM
from contest import Case, Contender, Contest, Made, differences, options, over_groups

NEARBY_PIXELS = 4.0
SIZE = 12
"""Pictures at a time."""
SHEET = Path(__file__).parents[1] / "docs" / "images" / "editing.png"


# --- what is asked for ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """What a picture shows (`before` in words, `picture` itself) and what it should (`after`), and where (`mask`)."""

    kind: str
    before: Scene
    after: Scene
    picture: Tensor
    mask: Tensor


def recolour(scene: Scene, rng: random.Random) -> tuple[Scene, Scene]:
    first, other = scene.things
    colour = rng.choice([colour for colour in COLOURS if colour not in (first.colour, other.colour)])
    return scene, replace(scene, things=(replace(first, colour=colour), other))


def reshape(scene: Scene, rng: random.Random) -> tuple[Scene, Scene]:
    first, other = scene.things
    shape = rng.choice([shape for shape in NAMED_SHAPES if shape != first.shape])
    return scene, replace(scene, things=(replace(first, shape=shape), other))


def add(scene: Scene, rng: random.Random) -> tuple[Scene, Scene]:
    return Scene(scene.things[1:], scene.background, scene.gradient), scene


def restyle(scene: Scene, rng: random.Random) -> tuple[Scene, Scene]:
    return scene, replace(scene, background=rng.choice([name for name in BACKGROUNDS if name != scene.background]))


KINDS: dict[str, Callable[[Scene, random.Random], tuple[Scene, Scene]]] = {
    "recolour": recolour,
    "reshape": reshape,
    "add": add,
    "restyle": restyle,
    "fill": add,
}
HOLE = {"white": 0.4, "gray": 0.95, "black": 0.6}
"""The grey of a hole on each background."""


def edits(kind: str, count: int, first: int) -> Iterator[Edit]:
    """`count` edits of scenes of two things from the scene seed `first`; no combination is held out of training.

    Only what has a name is reshaped or added: of other shapes the caption does not say which.
    """
    seed = first
    while count:
        scene, rng = sample_scene(seed), random.Random(f"{kind}{seed}")
        seed += 1
        if len(scene.things) == 1 or (kind != "recolour" and scene.things[0].shape not in NAMED_SHAPES):
            continue
        before, after = KINDS[kind](scene, rng)
        if before.held_out or after.held_out:
            continue
        count -= 1
        picture, wanted = from_pil([render(before), render(after)])
        mask = _dilated(((picture - wanted).abs().amax(dim=0) > 0.02).float()[None], 2)
        if kind != "restyle":
            mask = _box(mask)
        if kind == "fill":
            picture = torch.where(mask > 0, HOLE[scene.background], picture)
        yield Edit(kind, before, after, picture, mask)


def _dilated(mask: Tensor, pixels: int) -> Tensor:
    return functional.max_pool2d(mask[None], 2 * pixels + 1, stride=1, padding=pixels)[0]


def _box(mask: Tensor) -> Tensor:
    rows, columns = torch.nonzero(mask[0], as_tuple=True)
    box = torch.zeros_like(mask)
    box[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1.0
    return box


def cases(model: Model, asked: Mapping[str, list[Edit]]) -> list[Case]:
    found = []
    for number, (kind, some) in enumerate(asked.items()):
        for start in range(0, len(some), SIZE):
            part = some[start : start + SIZE]
            seeds = tuple(range(1000 * number + start, 1000 * number + start + len(part)))
            SAID.update(zip(seeds, part, strict=True))
            found.append(Case(f"{kind}-{start}-{len(part)}", seeds, partial(_task, model, part, seeds)))
    return found


SAID: dict[int, Edit] = {}
"""What each seed's picture is asked for, for methods that read the prompts."""


def _task(model: Model, some: list[Edit], seeds: tuple[int, ...]) -> Task:
    photo = Photo(
        torch.stack([edit.picture for edit in some]),
        model.denoiser([edit.before.caption for edit in some]),
        (64, 64),
        torch.stack([edit.mask for edit in some]),
    )
    return Task(model, model.denoiser([edit.after.caption for edit in some]), seeds, None, photo)


# --- the methods ------------------------------------------------------------------------------------------------


def at(task: Task, guidance_scale: float) -> Task:
    """The task with another guidance scale, both ways."""

    def guided(denoiser: Denoiser) -> Denoiser:
        if not isinstance(denoiser, ClassifierFree):
            raise TypeError("only classifier-free guidance has a scale")
        return replace(denoiser, guidance_scale=guidance_scale)

    photo = task.edited()
    return replace(task, denoiser=guided(task.denoiser), photo=replace(photo, denoiser=guided(photo.denoiser)))


def blind(task: Task) -> Task:
    """The task without its mask."""
    return replace(task, photo=replace(task.edited(), mask=None))


def nothing(task: Task) -> Result:
    return untouched(blind(task))


def anew(task: Task) -> Result:
    return plain(replace(task, photo=None))


def by_sdedit(task: Task, strength: float, eta: float = 0.0) -> Result:
    return sdedit(blind(task), strength=strength, eta=eta)


def by_sdedit_masked(task: Task, strength: float, eta: float = 0.0) -> Result:
    return sdedit(masked(task), strength=strength, eta=eta)


def by_ilvr(task: Task, factor: int, stop: float) -> Result:
    return ilvr(blind(task), factor=factor, stop=stop)


def by_repaint(task: Task, repeats: int) -> Result:
    return repaint(task, repeats=repeats)


def by_blended(task: Task, scale: float) -> Result:
    clip = guide()
    targets = clip.embed_texts([SAID[seed].after.caption for seed in task.seeds])

    def said(images: Tensor) -> Tensor:
        """The loss `ClipText`, of each picture's own caption; the crops of a picture follow one another."""
        return spherical_distance(
            clip.embed_images(images), targets.repeat_interleave(len(images) // len(targets), dim=0)
        )

    return blended(replace(task, loss=Call(said)) if scale else task, scale=scale, crops=4)


def by_diffedit(task: Task, guidance_scale: float, strength: float, threshold: float) -> Result:
    return diffedit(at(blind(task), guidance_scale), strength=strength, threshold=threshold)


def by_diffedit_masked(task: Task, guidance_scale: float, strength: float) -> Result:
    return diffedit(at(task, guidance_scale), strength=strength)


def by_edict(task: Task, guidance_scale: float, strength: float, mix: float) -> Result:
    return edict(at(blind(task), guidance_scale), strength=strength, steps=20, solver=EDICT(mix=mix))


def by_ddim(task: Task, guidance_scale: float, strength: float) -> Result:
    return edict(at(blind(task), guidance_scale), strength=strength, steps=20, solver=DDIM())


def by_attention(task: Task, guidance_scale: float, cross: float, own: float, inverse: str, replaced: bool) -> Result:
    solver = EDICT(mix=0.99) if inverse == "EDICT" else DDIM()
    attention = Attention(cross=cross, own=own, replaced=replaced)
    source, target = ([getattr(SAID[seed], name).caption for seed in task.seeds] for name in ("before", "after"))
    return prompt_to_prompt(at(blind(task), guidance_scale), source, target, attention=attention, steps=20, solver=solver)


def by_semantic(task: Task, scale: float, strength: float, layout: float, told: bool) -> Result:
    task = blind(task)
    encoder, schedule = noisy(), task.model.schedule
    text = by.Text(encoder, guide().embed_texts([SAID[seed].after.caption for seed in task.seeds]))
    reference = by.Likeness(encoder, schedule, untouched(task).latents)
    alone = task if told else replace(task, denoiser=task.model.denoiser("", guidance_scale=1.0))
    return semantic(alone, energies=[(1.0, text), (layout, by.Layout(reference))], scale=scale, strength=strength)


def by_bottleneck(task: Task, scale: float, until: float) -> Result:
    task = at(blind(task), 1.0)
    return asyrp(task, direction=Towards(task.denoiser, scale), until=until)


@cache
def guide():  # type: ignore[no-untyped-def]
    return load_clip()


@cache
def noisy():  # type: ignore[no-untyped-def]
    return load_noise_aware_encoder()


NOTHING = Contender("nothing done", nothing)
NEW = Contender("drawn anew, without the picture", anew)


def sdedit_at(strength: float, eta: float = 0.0) -> Contender:
    return Contender(f"SDEdit, strength {strength:g}, eta {eta:g}", by_sdedit, {"strength": strength, "eta": eta})


def sdedit_masked_at(strength: float, eta: float = 0.0) -> Contender:
    settings: dict[str, object] = {"strength": strength, "eta": eta}
    return Contender(f"SDEdit in the mask, strength {strength:g}, eta {eta:g}", by_sdedit_masked, settings)


TUNING = (
    *(sdedit_at(strength, eta) for eta in (0.0, 1.0) for strength in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    *(sdedit_masked_at(strength, 0.0) for strength in (0.5, 0.6, 0.7, 0.8, 0.9)),
    *(sdedit_masked_at(strength, 1.0) for strength in (0.7, 0.8, 0.9)),
    *(
        Contender(f"ILVR, N = {n}, to {stop:g}", by_ilvr, {"factor": n, "stop": stop})
        for n in (2, 4, 8)
        for stop in (0.3, 0.5, 0.7)
    ),
    *(Contender(f"RePaint, r = {r}", by_repaint, {"repeats": r}) for r in (1, 3, 5)),
    *(Contender(f"Blended, scale {scale:g}", by_blended, {"scale": scale}) for scale in (0.0, 3.0, 30.0)),
    *(
        Contender(
            f"DiffEdit, guidance {scale:g}, r = {strength:g}, threshold {threshold:g}",
            by_diffedit,
            {"guidance_scale": scale, "strength": strength, "threshold": threshold},
        )
        for scale in (1.5, 3.0)
        for strength in (0.6, 0.8)
        for threshold in (0.2, 0.5)
    ),
    *(
        Contender(
            f"EDICT, guidance {scale:g}, strength {strength:g}",
            by_edict,
            {"guidance_scale": scale, "strength": strength, "mix": 0.99},
        )
        for scale in (1.0, 1.5)
        for strength in (0.6, 0.8, 1.0)
    ),
    *(
        Contender(
            f"DDIM, guidance {scale:g}, strength {strength:g}",
            by_ddim,
            {"guidance_scale": scale, "strength": strength},
        )
        for scale in (1.5, 3.0)
        for strength in (0.6, 0.8, 1.0)
    ),
    *(
        Contender(
            f"Prompt-to-Prompt by {inverse}, guidance {scale:g}, cross {cross:g}, self {own:g}, "
            f"{'swap' if swap else 'new'}",
            by_attention,
            {"guidance_scale": scale, "cross": cross, "own": own, "inverse": inverse, "replaced": swap},
        )
        for inverse in ("EDICT", "DDIM")
        for scale in (1.5,)
        for cross, own in ((0.4, 0.2), (0.8, 0.4))
        for swap in (True, False)
    ),
    *(
        Contender(
            f"Semantic, scale {scale:g}, strength {strength:g}, layout {layout:g}, {'told' if told else 'untold'}",
            by_semantic,
            {"scale": scale, "strength": strength, "layout": layout, "told": told},
        )
        for told in (False, True)
        for scale in (30.0, 100.0)
        for strength, layout in ((0.8, 0.0), (0.8, 1.0))
    ),
    *(
        Contender(f"Asyrp, x {scale:g}, until {until:g}", by_bottleneck, {"scale": scale, "until": until})
        for scale in (0.3, 1.0)
        for until in (0.3, 0.8)
    ),
)


SDEDIT = sdedit_at(0.7, 1.0)
SDEDIT_MASKED = sdedit_masked_at(0.9, 1.0)
ILVR = Contender("ILVR, N = 2, to 0.3", by_ilvr, {"factor": 2, "stop": 0.3})
REPAINT = Contender("RePaint, r = 3", by_repaint, {"repeats": 3})
BLENDED = Contender("Blended Diffusion, scale 3", by_blended, {"scale": 3.0})
BLENDED_LATENT = Contender("Blended Latent Diffusion", by_blended, {"scale": 0.0})
DIFFEDIT = Contender(
    "DiffEdit, r = 0.8, threshold 0.2", by_diffedit, {"guidance_scale": 1.5, "strength": 0.8, "threshold": 0.2}
)
DIFFEDIT_MASKED = Contender(
    "DiffEdit in the mask, r = 0.8", by_diffedit_masked, {"guidance_scale": 1.5, "strength": 0.8}
)
EDICT_EDIT = Contender("EDICT, strength 1", by_edict, {"guidance_scale": 1.5, "strength": 1.0, "mix": 0.99})
DDIM_EDIT = Contender("DDIM inversion, strength 0.8", by_ddim, {"guidance_scale": 1.5, "strength": 0.8})
ATTENTION, ATTENTION_EDICT = (
    Contender(
        f"Prompt-to-Prompt by {inverse}",
        by_attention,
        {"guidance_scale": 1.5, "cross": 0.4, "own": 0.2, "inverse": inverse, "replaced": True},
    )
    for inverse in ("DDIM", "EDICT")
)
SEMANTIC = Contender(
    "Semantic guidance and the prompt", by_semantic, {"scale": 100.0, "strength": 0.8, "layout": 1.0, "told": True}
)
SEMANTIC_ALONE = Contender(
    "Semantic guidance alone", by_semantic, {"scale": 100.0, "strength": 0.8, "layout": 1.0, "told": False}
)
BOTTLENECK = Contender("Asyrp, untrained", by_bottleneck, {"scale": 1.0, "until": 0.8})
CONTENDERS = (
    NOTHING,
    NEW,
    SDEDIT,
    ILVR,
    SEMANTIC_ALONE,
    SEMANTIC,
    DDIM_EDIT,
    EDICT_EDIT,
    DIFFEDIT,
    ATTENTION,
    ATTENTION_EDICT,
    BOTTLENECK,
    SDEDIT_MASKED,
    BLENDED_LATENT,
    BLENDED,
    REPAINT,
    DIFFEDIT_MASKED,
)
BLIND = (ILVR, SEMANTIC_ALONE, SEMANTIC, DDIM_EDIT, EDICT_EDIT, DIFFEDIT, ATTENTION, ATTENTION_EDICT, BOTTLENECK)
QUESTIONS = (
    *((one, SDEDIT) for one in BLIND),
    *((one, SDEDIT_MASKED) for one in (BLENDED_LATENT, BLENDED, REPAINT, DIFFEDIT_MASKED)),
    (ATTENTION_EDICT, ATTENTION),
    (EDICT_EDIT, DDIM_EDIT),
    (SDEDIT_MASKED, SDEDIT),
)


# --- the judges -------------------------------------------------------------------------------------------------


def near(found: Seen | None, wanted: Seen) -> bool:
    return found is not None and math.hypot(found.x - wanted.x, found.y - wanted.y) < NEARBY_PIXELS


@torch.no_grad()
def loss_and_gradient(judge: ImageClassifier, some: list[Edit], images: Tensor) -> dict[str, np.ndarray]:
    """For each edit, (edits,): whether what was asked for happened, whether the rest stayed, both; and how far the
    picture moved where nothing was to change, in percent of the pixels' range, and in the judge's features."""
    asked, stayed = [], []
    for edit, image in zip(some, images, strict=True):
        now = read(image)
        here = {thing.colour: thing for thing in now.things}
        true = {thing.colour: thing for thing in read(from_pil([render(edit.after)])[0]).things}
        things = edit.after.things

        def shaped(colour: str, shape: str, image: Tensor = image) -> bool:
            return SHAPES[int(judge(isolate(image, colour)[None]).argmax())] == shape

        colours = set(here) == {thing.colour for thing in things}
        new, other = things
        shape = new.colour in here and shaped(new.colour, new.shape)
        other_stays = (
            other.colour in here and shaped(other.colour, other.shape) and near(here[other.colour], true[other.colour])
        )
        place = near(here.get(new.colour), true[new.colour])
        background = now.background == edit.after.background
        both = [here.get(thing.colour) for thing in things]
        placed = both[0] is not None and both[1] is not None and related(str(edit.after.relation), both[0], both[1])
        happened, rest = {
            "recolour": (colours, shape and place),
            "reshape": (shape, colours and place),
            "add": (colours and shape and placed, True),
            "fill": (colours and shape and placed, True),
            "restyle": (background, colours and shape and place),
        }[edit.kind]
        asked.append(happened)
        stayed.append(rest and other_stays and (background or edit.kind == "restyle"))
    before = torch.stack([edit.picture for edit in some])
    mask = torch.stack([edit.mask for edit in some])
    away = ((images - before).abs().mean(dim=1, keepdim=True) * (1 - mask)).sum(dim=(1, 2, 3)) / (1 - mask).sum(
        (1, 2, 3)
    )
    outside = mask * before + (1 - mask) * images
    felt = Perceptual(load_backbone(bundled.JUDGE), before)(outside)
    happened_, rest_ = np.array(asked, dtype=float), np.array(stayed, dtype=float)
    return {
        "as asked": happened_,
        "the rest stayed": rest_,
        "both": happened_ * rest_,
        "pixels": 100 * away.numpy(),
        "features": felt.numpy(),
    }


def rows(kinds: list[str], verdicts: Mapping[Contender, dict[str, np.ndarray]], made: Mapping[Contender, Made]) -> list:
    found = []
    for contender, verdict in verdicts.items():
        by_kind = verdict["both"].reshape(len(kinds), -1).mean(axis=1)
        found.append(
            [
                contender.name,
                *(over_groups(verdict[name]) for name in ("as asked", "the rest stayed", "both")),
                *(f"{100 * share:.0f}" for share in by_kind),
                f"{verdict['pixels'].mean():.1f}",
                f"{verdict['features'].mean():.3f}",
                *made[contender].costs,
            ]
        )
    return found


def main() -> None:
    parser = options(__doc__, "editing")
    parser.add_argument("--edits", type=int, default=24, help="of each kind")
    arguments = parser.parse_args()
    tune, count = arguments.tune, arguments.edits
    first = 10_000 if tune else 0
    model, judge = chainrule.load(), load_judge()
    asked = {kind: list(edits(kind, count, first + 2000 * i)) for i, kind in enumerate(KINDS)}
    every = [edit for some in asked.values() for edit in some]
    contest = Contest(model, arguments.work / ("tuning" if tune else "final"), [bundled.PIPELINE])
    played = contest.play(TUNING if tune else CONTENDERS, cases(model, asked), arguments.only)
    verdicts = {contender: loss_and_gradient(judge, every, made.images) for contender, made in played.items()}
    header = ["method", "as asked", "the rest stayed", "both", *KINDS, "pixels", "features", "passes", "s per image"]
    text = [
        f"## Editing pictures{', choosing on other pictures' if tune else ''}",
        f"`python benchmarks/editing.py --edits {count}{' --tune' if tune else ''}` on {machine()}. {count} edits of "
        f"each of {len(KINDS)} kinds, scenes with seeds from {first}, each picture its own seed; 95 % intervals over "
        "edits; the kinds' columns are percent right in both. Pixels: mean absolute change outside the box, in percent "
        "of the range; features: the distance there in the judge's features. A network pass is one guidance pair.",
        table(header, rows(list(KINDS), verdicts, played)),
    ]
    if not tune:
        text += [
            "Both, paired:",
            differences({contender: verdict["both"] for contender, verdict in verdicts.items()}, QUESTIONS),
            f"![edits]({SHEET.relative_to(SHEET.parents[1])})",
        ]
        sheet(asked, played)
    publish("editing-tuning" if tune else "editing", "\n\n".join(text))


def sheet(asked: Mapping[str, list[Edit]], made: Mapping[Contender, Made]) -> None:
    """The second edit of each kind, by every method."""
    kinds = list(asked)
    count = len(asked[kinds[0]])
    index = [i * count + 1 for i in range(len(kinds))]
    every = [edit for some in asked.values() for edit in some]
    columns = {"picture": torch.stack([every[i].picture for i in index])}
    columns |= {
        contender.name.split(",")[0].replace(" guidance and the prompt", ", prompted"): found.images[index]
        for contender, found in made.items()
    }
    notes = {name: [""] * len(kinds) for name in columns}
    notes["picture"] = [every[i].after.caption.removesuffix(" background") for i in index]
    whole = grid(columns, kinds, notes, "The picture, and what each method makes of it").convert("RGB")
    whole.resize((whole.width // 2, whole.height // 2)).save(SHEET, optimize=True)


if __name__ == "__main__":
    main()
