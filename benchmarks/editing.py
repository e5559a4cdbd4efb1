"""Every editing method on the same pictures, judged exactly: `python benchmarks/editing.py`.

Pictures of the bundled world that training never drew, five kinds of edit: another colour for one
of two things, another (named) shape for one of them, a thing more, another background, and a hole
to be filled with a thing. The exact judge and the judging network say whether what was asked for is
there, and whether the rest stayed: the other thing's colour, shape and place (to within four
pixels), what was not asked to change of the thing itself, and the background. Beside it, how far
the picture moved where nothing was to change, in pixels and in the judge's features. Methods that
take a mask are given the box around what differs; the others find their own way. Settings were
chosen on other pictures (`--tune`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import chainrule
from base import machine, publish, publish_picture, table
from chainrule.bundled import SCENES
from chainrule.diffusion.batch import PerImage
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.guidance import semantic as by
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.images import contact_sheet, from_pil
from chainrule.losses import Call, Clip, ImageClassifier, Perceptual, load_backbone, load_clip
from chainrule.losses.clip import spherical_distance
from chainrule.methods import (
    ILVR,
    Asyrp,
    BlendedDiffusion,
    DDIMInversion,
    DiffEdit,
    EDICTEdit,
    Method,
    Photo,
    Plain,
    PromptToPrompt,
    RePaint,
    Result,
    SDEdit,
    SemanticGuidance,
    Task,
    constrain_to_mask,
)
from chainrule.methods.chains import reconstruct_photos
from chainrule.methods.chunking import encode_photos, finish
from chainrule.models import Model
from chainrule.models.noise_aware import NoiseAwareEncoder, load_noise_aware_encoder
from chainrule.runs import count_passes
from chainrule.scenes.base import (
    BACKGROUNDS,
    COLOURS,
    NAMED_SHAPES,
    SHAPES,
    Scene,
    render,
    sample_scene,
)
from chainrule.scenes.judge import Seen, isolate, load_judge, read, related
from contest import (
    Case,
    Contender,
    Contest,
    Made,
    average_groups,
    make_options,
    tabulate_differences,
)

NEARBY_PIXELS = 4.0
SIZE = 12
"""Pictures at a time."""


# --- what is asked for ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """An edit that is asked for.

    Args:
        kind: Of which kind it is.
        before: What the picture shows, in words.
        after: What it should show.
        picture: (3, 64, 64), the picture itself.
        mask: (1, 64, 64), where it may change.
    """

    kind: str
    before: Scene
    after: Scene
    picture: Tensor
    mask: Tensor


def recolour(scene: Scene, rng: random.Random) -> tuple[Scene, Scene]:
    first, other = scene.things
    taken = (first.colour, other.colour)
    colour = rng.choice([colour for colour in COLOURS if colour not in taken])
    return scene, replace(scene, things=(replace(first, colour=colour), other))


def reshape(scene: Scene, rng: random.Random) -> tuple[Scene, Scene]:
    first, other = scene.things
    shape = rng.choice([shape for shape in NAMED_SHAPES if shape != first.shape])
    return scene, replace(scene, things=(replace(first, shape=shape), other))


def add(scene: Scene, rng: random.Random) -> tuple[Scene, Scene]:
    return Scene(scene.things[1:], scene.background, scene.gradient), scene


def restyle(scene: Scene, rng: random.Random) -> tuple[Scene, Scene]:
    others = [name for name in BACKGROUNDS if name != scene.background]
    return scene, replace(scene, background=rng.choice(others))


KINDS: dict[str, Callable[[Scene, random.Random], tuple[Scene, Scene]]] = {
    "recolour": recolour,
    "reshape": reshape,
    "add": add,
    "restyle": restyle,
    "fill": add,
}
HOLE = {"white": 0.4, "gray": 0.95, "black": 0.6}
"""The grey of a hole on each background."""


def find_edits(kind: str, count: int, first: int) -> Iterator[Edit]:
    """Edits of scenes of two things; no combination is held out of training.

    Only what has a name is reshaped or added: of other shapes the caption does not say which.

    Args:
        kind: One of `KINDS`.
        count: How many.
        first: The seed of the first scene that is tried.
    """
    seed = first
    while count:
        scene, rng = sample_scene(seed), random.Random(f"{kind}{seed}")
        seed += 1
        if len(scene.things) == 1:
            continue
        if kind != "recolour" and scene.things[0].shape not in NAMED_SHAPES:
            continue
        before, after = KINDS[kind](scene, rng)
        if before.held_out or after.held_out:
            continue
        count -= 1
        picture, wanted = from_pil([render(before), render(after)])
        mask = _dilate(((picture - wanted).abs().amax(dim=0) > 0.02).float()[None], 2)
        if kind != "restyle":
            mask = _box(mask)
        if kind == "fill":
            picture = torch.where(mask > 0, HOLE[scene.background], picture)
        yield Edit(kind, before, after, picture, mask)


def _dilate(mask: Tensor, pixels: int) -> Tensor:
    return functional.max_pool2d(mask[None], 2 * pixels + 1, stride=1, padding=pixels)[0]


def _box(mask: Tensor) -> Tensor:
    rows, columns = torch.nonzero(mask[0], as_tuple=True)
    box = torch.zeros_like(mask)
    box[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1.0
    return box


def ask_edits(kinds: Sequence[str], count: int, first: int) -> dict[str, list[Edit]]:
    """So many edits of each of some kinds, from scenes with seeds from `first` on."""
    return {
        kind: list(find_edits(kind, count, first + 2000 * i))
        for i, kind in enumerate(KINDS)
        if kind in kinds
    }


def make_cases(model: Model, asked: Mapping[str, list[Edit]], size: int = SIZE) -> list[Case]:
    """The edits of each kind, `size` at a time."""
    found = []
    for number, (kind, some) in enumerate(asked.items()):
        for start in range(0, len(some), size):
            part = some[start : start + size]
            first = 1000 * number + start
            seeds = tuple(range(first, first + len(part)))
            task = partial(_make_task, model, part, seeds)
            found.append(Case(f"{kind}-{start}-{len(part)}", seeds, task))
    return found


def _make_task(model: Model, some: list[Edit], seeds: tuple[int, ...]) -> Task:
    before, after = (
        tuple(getattr(edit, name).caption for edit in some) for name in ("before", "after")
    )
    images, masks = (torch.stack([getattr(edit, n) for edit in some]) for n in ("picture", "mask"))
    photo = Photo(images, model.denoiser(before), (64, 64), masks, prompts=before)
    return Task(model, model.denoiser(after), seeds, None, photo, prompts=after)


# --- the methods ----------------------------------------------------------------------------------


def set_scale(task: Task, guidance_scale: float) -> Task:
    """The task with another guidance scale, both ways."""

    def guide(denoiser: Denoiser) -> Denoiser:
        if not isinstance(denoiser, ClassifierFree):
            raise TypeError("only classifier-free guidance has a scale")
        return replace(denoiser, guidance_scale=guidance_scale)

    photo = task.require_photo()
    photo = replace(photo, denoiser=guide(photo.denoiser))
    return replace(task, denoiser=guide(task.denoiser), photo=photo)


def drop_mask(task: Task) -> Task:
    """The task without its mask."""
    return replace(task, photo=replace(task.require_photo(), mask=None))


def do_nothing(task: Task) -> Result:
    return finish(task, reconstruct_photos(drop_mask(task)))


def draw_anew(task: Task, method: Plain) -> Result:
    return method(replace(task, photo=None))


def edit_guided(task: Task, method: Method, guidance_scale: float | None = None) -> Result:
    """A method with another guidance scale both ways, if there is one."""
    result: Result = method(task if guidance_scale is None else set_scale(task, guidance_scale))
    return result


def edit_blindly(task: Task, method: Method, guidance_scale: float | None = None) -> Result:
    """A method that is told no mask, likewise."""
    return edit_guided(drop_mask(task), method, guidance_scale)


def edit_in_mask(task: Task, method: Method) -> Result:
    """A method whose every chain keeps the picture outside the mask."""
    return edit_guided(constrain_to_mask(task), method)


@dataclass(frozen=True, eq=False)
class Captions(PerImage):
    """The loss `ClipText`, of each picture's own caption.

    Args:
        clip: Who compares them.
        targets: (B, D), the captions' embeddings.
    """

    clip: Clip
    targets: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return spherical_distance(self.clip.embed_images(images), self.targets)


def blend_latents(task: Task, steps: int) -> Result:
    """Blended Diffusion without a loss, and so without crops to judge."""
    return BlendedDiffusion(steps=steps)(task)


def edit_given_mask(task: Task, strength: float, guidance_scale: float, steps: int) -> Result:
    """DiffEdit in a mask that is given, and so without noises to find one by."""
    return edit_guided(task, DiffEdit(strength=strength, steps=steps), guidance_scale)


def blend_by_caption(task: Task, method: BlendedDiffusion) -> Result:
    """Blended Diffusion towards each picture's own caption."""
    clip = load_guide()
    said = Captions(clip, clip.embed_texts(list(task.prompts)))
    return method(replace(task, loss=Call(said)))


def edit_by_energies(task: Task, method: SemanticGuidance, layout: float, told: bool) -> Result:
    """Semantic guidance by each picture's caption and its layout.

    Args:
        task: The pictures.
        method: The settings.
        layout: The weight of the layout.
        told: Whether the generator is told the caption too.
    """
    task = drop_mask(task)
    encoder, schedule = load_noisy_encoder(), task.model.schedule
    text = by.Text(encoder, load_guide().embed_texts(list(task.prompts)))
    reference = by.Likeness(encoder, schedule, encode_photos(task))
    alone = task.denoiser if told else task.model.denoiser("", guidance_scale=1.0)
    energy = by.Mixed([(1.0, text), (layout, by.Layout(reference))])
    return method(replace(task, denoiser=alone, energy=energy))


@cache
def load_guide() -> Clip:
    return load_clip()


@cache
def load_noisy_encoder() -> NoiseAwareEncoder:
    return load_noise_aware_encoder()


NOTHING = Contender("nothing done", do_nothing)
NEW = Contender("drawn anew, without the picture", draw_anew, {"method": Plain()})


def blindly(name: str, method: Method, guidance_scale: float | None = None) -> Contender:
    settings = {"method": method, "guidance_scale": guidance_scale}
    return Contender(name, edit_blindly, settings)


def sdedit_at(strength: float, eta: float = 0.0) -> Contender:
    method = SDEdit(strength=strength, eta=eta)
    return blindly(f"SDEdit, strength {strength:g}, eta {eta:g}", method)


def sdedit_masked_at(strength: float, eta: float = 0.0) -> Contender:
    name = f"SDEdit in the mask, strength {strength:g}, eta {eta:g}"
    return Contender(name, edit_in_mask, {"method": SDEdit(strength=strength, eta=eta)})


def ilvr_at(factor: int, stop: float) -> Contender:
    return blindly(f"ILVR, N = {factor}, to {stop:g}", ILVR(factor=factor, stop=stop))


def repaint_at(repeats: int) -> Contender:
    return Contender(f"RePaint, r = {repeats}", RePaint(repeats=repeats))


def blended_at(name: str, scale: float) -> Contender:
    """Blended Diffusion; at scale 0 there is no loss."""
    if not scale:
        return Contender(name, blend_latents, {"steps": 50})
    method = BlendedDiffusion(scale=scale, crops=4)
    return Contender(name, blend_by_caption, {"method": method})


class AttentionSettings(NamedTuple):
    """Of Prompt-to-Prompt.

    Args:
        inverse: What inverts: "EDICT" or "DDIM".
        scale: The guidance scale.
        cross: The share of steps with the source's cross-attention.
        own: The share of steps with the source's self-attention.
        replaced: Whether a word in another's place looks where that did.
    """

    inverse: str
    scale: float
    cross: float
    own: float
    replaced: bool


def attention_at(name: str, chosen: AttentionSettings) -> Contender:
    method = PromptToPrompt(
        cross=chosen.cross,
        self_attention=chosen.own,
        replaced=chosen.replaced,
        steps=20,
        mix=0.99 if chosen.inverse == "EDICT" else None,
    )
    return blindly(name, method, chosen.scale)


def semantic_at(name: str, scale: float, strength: float, layout: float, told: bool) -> Contender:
    method = SemanticGuidance(scale=scale, strength=strength)
    settings = {"method": method, "layout": layout, "told": told}
    return Contender(name, edit_by_energies, settings)


def edict_at(name: str, scale: float, strength: float) -> Contender:
    return blindly(name, EDICTEdit(strength=strength, steps=20, mix=0.99), scale)


def ddim_at(name: str, scale: float, strength: float) -> Contender:
    return blindly(name, DDIMInversion(strength=strength, steps=20), scale)


TUNING = (
    *(
        sdedit_at(strength, eta)
        for eta in (0.0, 1.0)
        for strength in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    ),
    *(sdedit_masked_at(strength, 0.0) for strength in (0.5, 0.6, 0.7, 0.8, 0.9)),
    *(sdedit_masked_at(strength, 1.0) for strength in (0.7, 0.8, 0.9)),
    *(ilvr_at(n, stop) for n in (2, 4, 8) for stop in (0.3, 0.5, 0.7)),
    *(repaint_at(r) for r in (1, 3, 5)),
    *(blended_at(f"Blended, scale {scale:g}", scale) for scale in (0.0, 3.0, 30.0)),
    *(
        blindly(
            f"DiffEdit, guidance {scale:g}, r = {strength:g}, threshold {threshold:g}",
            DiffEdit(strength=strength, threshold=threshold),
            scale,
        )
        for scale in (1.5, 3.0)
        for strength in (0.6, 0.8)
        for threshold in (0.2, 0.5)
    ),
    *(
        edict_at(f"EDICT, guidance {scale:g}, strength {strength:g}", scale, strength)
        for scale in (1.0, 1.5)
        for strength in (0.6, 0.8, 1.0)
    ),
    *(
        ddim_at(f"DDIM, guidance {scale:g}, strength {strength:g}", scale, strength)
        for scale in (1.5, 3.0)
        for strength in (0.6, 0.8, 1.0)
    ),
    *(
        attention_at(
            f"Prompt-to-Prompt by {inverse}, guidance 1.5, cross {cross:g}, self {own:g}, "
            f"{'swap' if swap else 'new'}",
            AttentionSettings(inverse, 1.5, cross, own, swap),
        )
        for inverse in ("EDICT", "DDIM")
        for cross, own in ((0.4, 0.2), (0.8, 0.4))
        for swap in (True, False)
    ),
    *(
        semantic_at(
            f"Semantic, scale {scale:g}, strength {strength:g}, layout {layout:g}, "
            f"{'told' if told else 'untold'}",
            scale,
            strength,
            layout,
            told,
        )
        for told in (False, True)
        for scale in (30.0, 100.0)
        for strength, layout in ((0.8, 0.0), (0.8, 1.0))
    ),
    *(
        blindly(
            f"Asyrp, x {scale:g}, until {until:g}",
            Asyrp(scale=scale, until=until),
            1.0,
        )
        for scale in (0.3, 1.0)
        for until in (0.3, 0.8)
    ),
)


BY_SDEDIT = sdedit_at(0.7, 1.0)
SDEDIT_MASKED = sdedit_masked_at(0.9, 1.0)
BY_ILVR = ilvr_at(2, 0.3)
REPAINT = repaint_at(3)
BLENDED = blended_at("Blended Diffusion, scale 3", 3.0)
BLENDED_LATENT = blended_at("Blended Latent Diffusion", 0.0)
DIFFEDIT = blindly("DiffEdit, r = 0.8, threshold 0.2", DiffEdit(strength=0.8, threshold=0.2), 1.5)
DIFFEDIT_MASKED = Contender(
    "DiffEdit in the mask, r = 0.8",
    edit_given_mask,
    {"strength": 0.8, "guidance_scale": 1.5, "steps": 50},
)
EDICT_EDIT = edict_at("EDICT, strength 1", 1.5, 1.0)
DDIM_EDIT = ddim_at("DDIM inversion, strength 0.8", 1.5, 0.8)
ATTENTION, ATTENTION_EDICT = (
    attention_at(
        f"Prompt-to-Prompt by {inverse}", AttentionSettings(inverse, 1.5, 0.4, 0.2, replaced=True)
    )
    for inverse in ("DDIM", "EDICT")
)
SEMANTIC, SEMANTIC_ALONE = (
    semantic_at(name, 100.0, 0.8, 1.0, told)
    for name, told in (
        ("Semantic guidance and the prompt", True),
        ("Semantic guidance alone", False),
    )
)
BOTTLENECK = blindly("Asyrp, untrained", Asyrp(scale=1.0, until=0.8), 1.0)
CONTENDERS = (
    NOTHING,
    NEW,
    BY_SDEDIT,
    BY_ILVR,
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
BLIND = (
    BY_ILVR,
    SEMANTIC_ALONE,
    SEMANTIC,
    DDIM_EDIT,
    EDICT_EDIT,
    DIFFEDIT,
    ATTENTION,
    ATTENTION_EDICT,
    BOTTLENECK,
)
MASKED = (BLENDED_LATENT, BLENDED, REPAINT, DIFFEDIT_MASKED)
QUESTIONS = (
    *((one, BY_SDEDIT) for one in BLIND),
    *((one, SDEDIT_MASKED) for one in MASKED),
    (ATTENTION_EDICT, ATTENTION),
    (EDICT_EDIT, DDIM_EDIT),
    (SDEDIT_MASKED, BY_SDEDIT),
)


# --- the judges -----------------------------------------------------------------------------------


def is_near(found: Seen | None, wanted: Seen) -> bool:
    if found is None:
        return False
    return math.hypot(found.x - wanted.x, found.y - wanted.y) < NEARBY_PIXELS


def judge_edit(judge: ImageClassifier, edit: Edit, image: Tensor) -> tuple[bool, bool]:
    """Whether what was asked for happened, and whether the rest stayed."""
    now = read(image)
    here = {thing.colour: thing for thing in now.things}
    aim = from_pil([render(edit.after)])[0]
    true = {thing.colour: thing for thing in read(aim).things}

    def has_shape(colour: str, shape: str) -> bool:
        return SHAPES[int(judge(isolate(image, colour)[None]).argmax())] == shape

    def is_there(colour: str, shape: str) -> bool:
        return colour in here and has_shape(colour, shape)

    new, other = edit.after.things
    first, second = here.get(new.colour), here.get(other.colour)
    colours = set(here) == {new.colour, other.colour}
    shape = is_there(new.colour, new.shape)
    other_stays = is_there(other.colour, other.shape) and is_near(second, true[other.colour])
    place = is_near(first, true[new.colour])
    background = now.background == edit.after.background
    placed = (
        first is not None
        and second is not None
        and related(str(edit.after.relation), first, second)
    )
    happened, rest = {
        "recolour": (colours, shape and place),
        "reshape": (shape, colours and place),
        "add": (colours and shape and placed, True),
        "fill": (colours and shape and placed, True),
        "restyle": (background, colours and shape and place),
    }[edit.kind]
    return happened, rest and other_stays and (background or edit.kind == "restyle")


@torch.no_grad()
def judge_edits(
    judge: ImageClassifier, some: Sequence[Edit], images: Tensor
) -> dict[str, np.ndarray]:
    """For each edit, (edits,): whether it is as asked, whether the rest stayed, and both.

    And how far the picture moved where nothing was to change, in percent of the pixels' range, and
    in the judge's features.
    """
    pairs = zip(some, images, strict=True)
    happened, rest = np.array([judge_edit(judge, *pair) for pair in pairs], dtype=float).T
    before = torch.stack([edit.picture for edit in some])
    mask = torch.stack([edit.mask for edit in some])
    moved = (images - before).abs().mean(dim=1, keepdim=True) * (1 - mask)
    away = moved.sum(dim=(1, 2, 3)) / (1 - mask).sum((1, 2, 3))
    outside = mask * before + (1 - mask) * images
    felt = Perceptual(load_backbone(SCENES.judge), before)(outside)
    return {
        "as asked": happened,
        "the rest stayed": rest,
        "both": happened * rest,
        "pixels": 100 * away.numpy(),
        "features": felt.numpy(),
    }


def tabulate_edits(
    kinds: Sequence[str],
    verdicts: Mapping[Contender, dict[str, np.ndarray]],
    made: Mapping[Contender, Made],
) -> str:
    """A table with a row for each method."""
    header = ["method", "as asked", "the rest stayed", "both", *kinds, "pixels", "features"]
    found: list[list[object]] = []
    for contender, verdict in verdicts.items():
        by_kind = verdict["both"].reshape(len(kinds), -1).mean(axis=1)
        shares = (average_groups(verdict[n]) for n in ("as asked", "the rest stayed", "both"))
        found.append(
            [
                contender.name,
                *shares,
                *(f"{100 * share:.0f}" for share in by_kind),
                f"{verdict['pixels'].mean():.1f}",
                f"{verdict['features'].mean():.3f}",
                *made[contender].costs,
            ]
        )
    return table([*header, "passes", "s per image"], found)


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "editing")
    options.add("--edits", type=int, default=24, toy=2, help="of each kind")
    options.add("--kinds", nargs="+", choices=KINDS, default=[*KINDS], toy=["recolour"])
    arguments = options.parse(argv)
    tune, count, kinds = arguments.tune, arguments.edits, arguments.kinds
    first, judge = 10_000 if tune else 0, load_judge()
    model, passes = count_passes(chainrule.load())
    asked = ask_edits(kinds, count, first)
    every = [edit for some in asked.values() for edit in some]
    work = arguments.work / ("tuning" if tune else "final")
    contest = Contest(passes, work, [SCENES.pipeline], toy=arguments.toy)
    cases = make_cases(model, asked)
    played = contest.play(TUNING if tune else CONTENDERS, cases, arguments.only)
    verdicts = {c: judge_edits(judge, every, made.images) for c, made in played.items()}
    command = f"python benchmarks/editing.py --edits {count}{' --tune' if tune else ''}"
    text = [
        f"## Editing pictures{', choosing on other pictures' if tune else ''}",
        f"`{command}` on {machine()}. {count} edits of each of {len(asked)} kinds, scenes with "
        f"seeds from {first}, each picture its own seed; 95 % intervals over edits; the kinds' "
        "columns are percent right in both. Pixels: mean absolute change outside the box, in "
        "percent of the range; features: the distance there in the judge's features. A network "
        "pass is one guidance pair.",
        tabulate_edits([*asked], verdicts, played),
    ]
    if not tune:
        both = {contender: verdict["both"] for contender, verdict in verdicts.items()}
        text += ["Both, paired:", tabulate_differences(both, QUESTIONS)]
        text += ["![edits](images/editing.png)"]
        publish_picture("editing.png", partial(draw_sheet, asked, played), dry=arguments.dry)
    publish("editing-tuning" if tune else "editing", "\n\n".join(text), dry=arguments.dry)


def draw_sheet(asked: Mapping[str, list[Edit]], made: Mapping[Contender, Made]) -> Image.Image:
    """The second edit of each kind: a column for each, a row for each method."""
    kinds = list(asked)
    count = len(asked[kinds[0]])
    index = [i * count + 1 for i in range(len(kinds))]
    every = [edit for some in asked.values() for edit in some]
    rows = {"the picture": torch.stack([every[i].picture for i in index])}
    for contender, found in made.items():
        name = contender.name.split(",")[0].replace(" guidance and the prompt", ", prompted")
        rows[name] = found.images[index]
    columns = {kind: torch.stack([row[k] for row in rows.values()]) for k, kind in enumerate(kinds)}
    wanted = [every[i].after.caption.removesuffix(" background") for i in index]
    captions = {
        kind: [caption, *[""] * (len(rows) - 1)]
        for kind, caption in zip(kinds, wanted, strict=True)
    }
    title = "Pictures, what was asked for (below them), and what each method makes of it"
    whole = contact_sheet(columns, list(rows), captions, title).convert("RGB")
    return whole.resize((whole.width * 3 // 4, whole.height * 3 // 4))


if __name__ == "__main__":
    main()
