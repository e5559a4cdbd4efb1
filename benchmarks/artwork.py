"""DOODL's four tables on real artwork, the world of sprites: `python benchmarks/artwork.py`.

What `vocabulary.py`, `text.py`, `personalisation.py` and `beauty.py` ask of the world of shapes is
asked of `chainrule.sprites`: emoji of three families of artists, 310 of whose kinds the guide
knows. At least 96 images a method in each table, all at the same prompts and seeds.

- `vocabulary`: species that no caption names ("a bird on a blue background": a penguin), towards
  the guide's class. Right: what the judge, which no guidance ever touched, first takes it for.
- `prompts`: captions of combinations that training never saw, of things that have words: a thing in
  a style, on a ground, beside another. Towards the bundled CLIP, without classifier-free guidance;
  plain images with it stand beside. Right: all that the caption says is there.
- `things`: this very thing, from artwork that no training saw, shown in one picture and called by
  the nearest word. Towards CLIP's embedding of the picture. Right: the context is, and the judge's
  first guess is the thing (lenient: its second; strict: with a probability above 0.9).
- `beauty`: pictures that training never drew, inverted without a prompt and edited towards the
  highest rating of the bundled rater. Right: the things and the ground, as the judge sees them, are
  those of before, and the rating, by its definition, rose by 0.1.

All settings are the presets, which were chosen in the world of shapes: nothing is tuned here. The
guide's loss is a mean over its labels, of which the world of shapes has 11 and this one 310; it is
multiplied by 310 / 11, so that a scale means what it meant there.

Images are kept in the work folder, which many processes may share: one for each table and method
(`--tables T --only METHOD --dry`), then one that reports what there is (`--collect`).
"""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import beauty
from artwork_world import ARTWORK, WEIGHTS, World, note_machine, read_machine
from base import Options, publish, table, use_preset
from chainrule.images import contact_sheet
from chainrule.losses import (
    Aesthetic,
    Classifier,
    ClipImage,
    ClipText,
    ImageClassifier,
    Loss,
)
from chainrule.methods import DOODL, Hybrid, Photo, Plain, Task
from chainrule.scenes.base import SHAPES
from chainrule.sprites.base import (
    APART,
    HELD_OUT_GROUNDS,
    HELD_OUT_KINDS,
    HELD_OUT_STYLES,
    Scene,
    Thing,
    sample_scene,
)
from chainrule.sprites.judge import PLACES, Judges, check, cut, read_ground
from chainrule.sprites.rating import rate
from chainrule.sprites.things import KINDS
from contest import (
    Case,
    Contender,
    Contest,
    Made,
    Rivals,
    average_groups,
    count_equal_draws,
    make_options,
    tabulate_differences,
)

SPECIES = ("penguin", "flamingo", "pineapple", "banana", "guitar", "butterfly", "sunflower", "cool")
"""Of six genera; none is held out, nor on one of the grounds."""
GROUNDS = ("blue", "yellow")

KNOWN_THINGS = {"cherries": "cherries", "lobster": "crab", "robot": "alien", "tophat": "crown"}
"""Things that training never saw, and what calls them: cherries are "a fruit" in any caption."""
LEVELS = ("lenient", "right", "strict")
SHOWN_STYLE = "3d"

TOY_BUDGET = 40
ROWS = 8
"""How many rows a sheet has."""

Measures = dict[str, np.ndarray]
"""What is measured of each image, (groups, images), by name; the groups are resampled."""


@dataclass(frozen=True, eq=False)
class Table:
    """One of the four tables.

    Args:
        about: What is asked for, and over what intervals are.
        contenders: The methods.
        questions: Which is compared with which.
        ask: The cases of a method.
        judge: What is measured of images (N, 3, 64, 64), which come in the order of the cases.
        rows: What each of the groups is called.
        networks: The folders of the networks that images depend on.
        paired: The measures whose differences are told.
        shown: What stands left on a sheet, (groups, 3, 64, 64): what it is called and draws it.
    """

    about: str
    contenders: tuple[Contender, ...]
    questions: tuple[tuple[Contender, Contender], ...]
    ask: Callable[[Contender], list[Case]]
    judge: Callable[[Tensor], Measures]
    rows: list[str]
    networks: tuple[str, ...]
    paired: tuple[str, ...] = ("right",)
    shown: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)


GUIDED = {"like": "gentle", "searched": 1.0}
"""The hybrid that only draws many images by one-step guidance and keeps the best: in this form it
is at its strongest towards what networks judge (`strongest.py`)."""


def make_hybrids(
    loss: str, budget: int, *, photo: bool = False, toy: bool = False
) -> tuple[Contender, Contender]:
    """One-step guidance at its strongest, and what chainrule does by default.

    Args:
        loss: The kind of the loss.
        budget: DOODL's network passes, which each may spend (at toy size, a few).
        photo: Whether a photo is edited.
        toy: Whether it is at toy size.
    """
    best = use_preset(Hybrid, "tuned", loss, photo=photo)
    best = best.model_copy(update={"budget": min(budget, TOY_BUDGET) if toy else budget})
    drawn = best.model_copy(update=GUIDED if photo else {**GUIDED, "screened": 0.0})
    return Contender("best of N, gently guided", drawn), Contender("hybrid", best)


def line_up(loss: str, arguments: argparse.Namespace) -> tuple[Rivals, tuple[Contender, ...]]:
    """DOODL's rivals towards a kind of loss, and with them the hybrid, which is the last."""
    rivals = Rivals(loss, arguments.budget)
    budget = count_equal_draws(rivals.tuned) * rivals.steps
    return rivals, (*rivals.all, *make_hybrids(loss, budget, toy=arguments.toy))


def compare_last(contenders: Sequence[Contender]) -> tuple[tuple[Contender, Contender], ...]:
    """DOODL with one-step guidance at its strongest, and the last with each of the others."""
    *others, doodl, guided, last = contenders
    return (doodl, guided), *((last, other) for other in (*others, doodl, guided))


# --- vocabulary -----------------------------------------------------------------------------------


def weigh_guide(guide: ImageClassifier, species: str) -> Loss:
    """The loss towards a class, in the units of the world of shapes."""
    return len(guide.labels) / len(SHAPES) * Classifier(guide, species)


def call_species(species: str, count: int) -> list[str]:
    """The prompts of `count` images: as many of each ground."""
    grounds = [GROUNDS[i * len(GROUNDS) // count] for i in range(count)]
    word = KINDS[species].word
    article = "an" if word[0] in "aeiou" else "a"
    return [f"{article} {word} on a {ground} background" for ground in grounds]


def take_vocabulary(world: World, arguments: argparse.Namespace) -> Table:
    """A bird that has no word."""
    seeds = tuple(range(arguments.seeds or 12))
    asked = SPECIES[: arguments.cases]
    rivals, contenders = line_up("classifier", arguments)

    def make_task(species: str) -> Task:
        denoiser = world.model.denoiser(call_species(species, len(seeds)))
        return Task(world.model, denoiser, seeds, weigh_guide(world.guide, species))

    cases = [Case(f"{name}-{len(seeds)}", seeds, partial(make_task, name)) for name in asked]

    @torch.no_grad()
    def judge(images: Tensor) -> Measures:
        names = world.judges.name_things(images)
        labels = world.guide.labels
        guessed = [labels[i] for i in world.guide(images).argmax(dim=1).tolist()]
        wanted = [name for name in asked for _ in seeds]
        prompts = [prompt for name in asked for prompt in call_species(name, len(seeds))]
        grounds = [f"a {read_ground(image)} background" for image in images]
        found = {
            "right": [a == b for a, b in zip(names, wanted, strict=True)],
            "guide": [a == b for a, b in zip(guessed, wanted, strict=True)],
            "genus": [KINDS[a].word == KINDS[b].word for a, b in zip(names, wanted, strict=True)],
            "ground": [a.endswith(b) for a, b in zip(prompts, grounds, strict=True)],
        }
        return _shape(found, len(asked))

    about = (
        f"{len(asked)} species that have no word, {len(seeds)} seeds each from 0, shared out "
        f"among {len(GROUNDS)} grounds; intervals over species."
    )
    questions = (*rivals.questions, *compare_last(contenders))
    networks = ("pipeline", "classifier")
    rows = [f"{KINDS[name].word}: {name}" for name in asked]
    return Table(about, contenders, questions, lambda _: cases, judge, rows, networks)


def _shape(found: Mapping[str, Sequence[float] | np.ndarray], groups: int) -> Measures:
    """Each measure as (groups, images)."""
    return {name: np.array(each, dtype=float).reshape(groups, -1) for name, each in found.items()}


# --- prompts --------------------------------------------------------------------------------------


def tell_apart(scene: Scene) -> str | None:
    """What makes a scene's caption one that training never saw: "style", "ground" or "pair".

    None if nothing does, or if it cannot be told from the caption or judged: all things have their
    own words and are different ones, and the size is not judged.
    """
    kinds = [thing.kind for thing in scene.things]
    named = all(not KINDS[kind].hidden and kind not in HELD_OUT_KINDS for kind in kinds)
    if not named or scene.size_word or len(set(kinds)) < len(kinds):
        return None
    places = [list(KINDS).index(kind) for kind in kinds]
    found = {
        "style": scene.style_said and any((kind, scene.style) in HELD_OUT_STYLES for kind in kinds),
        "ground": any((kind, scene.ground) in HELD_OUT_GROUNDS for kind in kinds),
        "pair": len(places) == 2 and (places[0] - places[1]) % APART == 0,
    }
    true = [name for name, holds in found.items() if holds]
    return true[0] if len(true) == 1 else None


def find_scenes(count: int) -> list[Scene]:
    """Scenes of different captions that training never saw, in turn of each kind."""
    each = -(-count // 3)
    found: dict[str, dict[str, Scene]] = {"style": {}, "ground": {}, "pair": {}}
    seed = 0
    while any(len(scenes) < each for scenes in found.values()):
        scene = sample_scene(seed, held_out=True)
        seed += 1
        kind = tell_apart(scene)
        if kind is not None and len(found[kind]) < each:
            found[kind].setdefault(scene.caption, scene)
    turns = zip(*(scenes.values() for scenes in found.values()), strict=True)
    return [scene for turn in turns for scene in turn][:count]


def take_prompts(world: World, arguments: argparse.Namespace) -> Table:
    """All of a prompt that training never saw."""
    seeds = tuple(range(arguments.seeds or 4))
    scenes = find_scenes(arguments.cases or 24)
    rivals, (*others, hybrid) = line_up("text", arguments)
    guided = Contender("plain, with classifier-free guidance 3", Plain(steps=rivals.steps))
    contenders = (rivals.plain, guided, *others[1:], hybrid)

    def make_task(caption: str, scale: float) -> Task:
        denoiser = world.model.denoiser(caption, guidance_scale=scale)
        return Task(world.model, denoiser, seeds, ClipText(world.clip, caption))

    def ask(contender: Contender) -> list[Case]:
        scale = 3.0 if contender is guided else 1.0
        captions = [scene.caption for scene in scenes]
        return [Case(f"{c}-{len(seeds)}", seeds, partial(make_task, c, scale)) for c in captions]

    @torch.no_grad()
    def judge(images: Tensor) -> Measures:
        texts = world.judge_clip.embed_texts([scene.caption for scene in scenes])
        right, scores = list[float](), list[float]()
        for scene, text, row in zip(scenes, texts, images.chunk(len(scenes)), strict=True):
            right += [check(world.judges, scene, image).right for image in row]
            scores += (100 * (world.judge_clip.embed_images(row) @ text)).tolist()
        return _shape({"right": right, "judge CLIP score": scores}, len(scenes))

    about = (
        f"{len(scenes)} captions of combinations that training never saw (a thing and a style, a "
        f"thing and a ground, two things), {len(seeds)} seeds each from 0, without "
        "classifier-free guidance; intervals over captions."
    )
    questions = (*rivals.questions, *compare_last((*others, hybrid)), (hybrid, guided))
    rows = [scene.caption for scene in scenes]
    paired = ("right", "judge CLIP score")
    return Table(about, contenders, questions, ask, judge, rows, ("pipeline", "clip"), paired)


# --- things ---------------------------------------------------------------------------------------


def make_contexts(called: str) -> list[Scene]:
    """Where a thing is wanted: on two other grounds, and beside two other things.

    Args:
        called: The kind whose word calls it.
    """
    alone = (Thing(called, 32, 32, 52),)
    left = Thing(called, 16, 32, 30), Thing("snowman", 48, 32, 30)
    above = Thing(called, 32, 16, 30), Thing("tree", 32, 48, 30)
    style = SHOWN_STYLE
    return [
        Scene(alone, style, "blue", style_said=False),
        Scene(alone, style, "yellow", style_said=False),
        Scene(left, style, "purple", relation="left of", style_said=False),
        Scene(above, style, "gray", relation="above", style_said=False),
    ]


def show_thing(kind: str) -> Scene:
    """The scene of the one picture of a thing."""
    return Scene((Thing(kind, 32, 32, 52),), SHOWN_STYLE, "white")


@torch.no_grad()
def judge_thing(judges: Judges, kind: str, scene: Scene, images: Tensor) -> Measures:
    """Whether the context of images (B, 3, 64, 64) is right, and with it the thing, at each level.

    Args:
        judges: Who judges.
        kind: The thing.
        scene: Where it is wanted.
        images: The images.
    """
    context = torch.tensor([read_ground(image) == scene.ground for image in images])
    windows = images
    if scene.relation is not None:
        first, second = (
            cut(images, images.new_tensor([centre]).expand(len(images), -1))
            for centre in PLACES[scene.relation]
        )
        other = scene.things[1].kind
        context &= torch.tensor([name == other for name in judges.name_things(second)])
        windows = first
    seen = judges.things(windows).softmax(dim=1).cpu()
    p = seen[:, judges.things.index(kind)]
    ahead = (seen > p[:, None]).sum(dim=1)
    found = {"lenient": ahead < 2, "right": ahead < 1, "strict": p > 0.9}
    values = {"context": context, **{level: found[level] & context for level in LEVELS}}
    return {name: each.numpy().astype(float) for name, each in values.items()}


def take_things(world: World, arguments: argparse.Namespace) -> Table:
    """This very thing, elsewhere."""
    seeds = tuple(range(arguments.seeds or 6))
    all_wanted = [(kind, s) for kind, c in KNOWN_THINGS.items() for s in make_contexts(c)]
    wanted = all_wanted[: arguments.cases]
    rivals, contenders = line_up("image", arguments)

    def make_task(kind: str, prompt: str) -> Task:
        loss = ClipImage(world.clip, [world.draw([show_thing(kind)])[0]])
        return Task(world.model, world.model.denoiser(prompt), seeds, loss)

    cases = [
        Case(
            f"{kind}, {scene.caption}-{len(seeds)}", seeds, partial(make_task, kind, scene.caption)
        )
        for kind, scene in wanted
    ]

    def judge(images: Tensor) -> Measures:
        rows = [
            judge_thing(world.judges, kind, scene, row)
            for (kind, scene), row in zip(wanted, images.chunk(len(wanted)), strict=True)
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    kinds = list(dict.fromkeys(kind for kind, _ in wanted))
    about = (
        f"{len(kinds)} things of artwork that no training saw ({', '.join(kinds)}), "
        f"{len(wanted)} pairs of thing and context, {len(seeds)} seeds each from 0; intervals "
        "over pairs."
    )
    questions = (*rivals.questions, *compare_last(contenders))
    rows = [scene.caption for _, scene in wanted]
    shown = {"shown": lambda: world.draw([show_thing(kind) for kind, _ in wanted]).cpu()}
    networks = ("pipeline", "clip")
    return Table(
        about, contenders, questions, lambda _: cases, judge, rows, networks, LEVELS, shown
    )


# --- beauty ---------------------------------------------------------------------------------------


def describe(judges: Judges, scene: Scene, image: Tensor) -> tuple[str, ...]:
    """The ground and what is in the scene's places, as the judge sees them."""
    parts = image[None]
    if scene.relation is not None:
        centres = image.new_tensor(PLACES[scene.relation])
        parts = cut(image.expand(2, -1, -1, -1), centres)
    return read_ground(image), *judges.name_things(parts)


CHAIN = 2 * beauty.TUNED.steps
"""Network passes of a chain of EDICT's, each step of which asks the network of both latents."""


def edit_within(budget: int | None) -> DOODL:
    """DOODL of photos, of as many iterations as a budget pays for; None: of its preset's."""
    if budget is None:
        return beauty.TUNED
    iterations = (budget // CHAIN - 2) // 3
    if iterations < 1:
        raise SystemExit(f"a budget of {budget} is too small for photos: they take {5 * CHAIN}")
    return beauty.TUNED.model_copy(update={"iterations": iterations})


def take_beauty(world: World, arguments: argparse.Namespace) -> Table:
    """A more beautiful picture."""
    scenes = [sample_scene(seed) for seed in range(arguments.pictures)]
    size, photos = arguments.batch, world.draw(scenes)
    one_step, doodl = beauty.ONE_STEPS[0], edit_within(arguments.budget)
    budget = CHAIN * (3 * doodl.iterations + 2)
    hybrids = make_hybrids("aesthetic", budget, photo=True, toy=arguments.toy)
    rivals = (beauty.search_at_cost_of(doodl), Contender("DOODL tuned", doodl))
    contenders = (beauty.BACK, one_step, *rivals, *hybrids)

    def make_task(seeds: tuple[int, ...]) -> Task:
        alone = world.model.denoiser("", guidance_scale=1.0)
        photo = Photo(photos[list(seeds)].to(world.device), alone, (64, 64))
        return Task(world.model, alone, seeds, Aesthetic(world.rater, 10.0), photo)

    batches = [tuple(range(len(scenes))[i : i + size]) for i in range(0, len(scenes), size)]
    cases = [Case(f"pictures-{b[0]}-{len(b)}", b, partial(make_task, b)) for b in batches]

    def judge(images: Tensor) -> Measures:
        before = photos.to(images.device)
        trios = list(zip(scenes, before, images, strict=True))
        kept = np.array(
            [describe(world.judges, s, p) == describe(world.judges, s, i) for s, p, i in trios]
        )
        rise = np.array([rate(i) - rate(p) for _, p, i in trios])
        levels = {level: kept & (rise > least) for level, least in beauty.RISES.items()}
        return _shape({"kept": kept, "rise of the rating": rise, **levels}, len(scenes))

    about = (
        f"{len(scenes)} pictures that training never drew, seeds from 0, without a prompt; "
        "intervals over pictures. Kept: the judge sees the things and the ground of before. An "
        "edit succeeds if they are and the rating, by its definition, rose by more than "
        f"{', '.join(f'{least:g} ({level})' for level, least in beauty.RISES.items())}."
    )
    first, *_, by_doodl, _, _ = contenders
    questions = (
        (one_step, first),
        *((by_doodl, other) for other in contenders[:3]),
        *compare_last(contenders),
    )
    return Table(
        about,
        contenders,
        questions,
        lambda _: cases,
        judge,
        [scene.caption for scene in scenes],
        ("pipeline", "clip", "rater"),
        tuple(beauty.RISES),
        {"picture": lambda: photos.cpu()},
    )


TABLES: dict[str, Callable[[World, argparse.Namespace], Table]] = {
    "vocabulary": take_vocabulary,
    "prompts": take_prompts,
    "things": take_things,
    "beauty": take_beauty,
}
TITLES = {
    "vocabulary": "a species without a word",
    "prompts": "all of a prompt",
    "things": "this very thing, elsewhere",
    "beauty": "a more beautiful picture",
}


# --- the report -----------------------------------------------------------------------------------


def make_artwork_options() -> Options:
    """The benchmark's options."""
    toy = ["plain", "one-step", "DOODL", "hybrid"]
    options = make_options(__doc__, "artwork", tune=False, only=toy)
    names = list(TABLES)
    options.add(
        "--tables", nargs="+", choices=names, default=names, toy=names[:2], help="which of them"
    )
    options.add_argument("--device", default="cpu", help='as "cuda"')
    options.add_argument("--weights", type=Path, default=WEIGHTS, help="the networks' folder")
    options.add_argument("--artwork", type=Path, default=ARTWORK, help="where it is kept")
    help_ = "run nothing: report what there is, and what is missing"
    options.add_argument("--collect", action="store_true", help=help_)
    options.add_argument("--sheet", type=Path, help="where a picture of each table is saved")
    help_ = "for each species (12), caption (4), thing and context (6)"
    options.add("--seeds", type=int, default=None, toy=2, help=help_)
    help_ = "network passes an image; what DOODL's preset asks, if not said"
    options.add_argument("--budget", type=int, help=help_)
    options.add("--cases", type=int, default=None, toy=2, help="only so many of those")
    options.add("--pictures", type=int, default=96, toy=2, help="to make more beautiful")
    options.add("--batch", type=int, default=48, toy=2, help="of pictures")
    return options


def write_command(name: str, arguments: argparse.Namespace) -> str:
    """What makes one of the tables."""
    usual: dict[str, int | None] = {"budget": None, "seeds": None, "cases": None}
    if name == "beauty":
        usual = {"budget": None, "pictures": 96, "batch": 48}
    changed = {
        f"--{key}": getattr(arguments, key)
        for key, value in usual.items()
        if getattr(arguments, key) != value
    }
    device = [] if arguments.device == "cpu" else ["--device", arguments.device]
    changes = [str(each) for pair in changed.items() for each in pair]
    return shlex.join(["python", "benchmarks/artwork.py", "--tables", name, *changes, *device])


def report(
    name: str, asked: Table, played: Mapping[Contender, Made], judged: Mapping[Contender, Measures]
) -> list[str]:
    """The paragraphs on a table.

    Args:
        name: The table's name.
        asked: What was asked for.
        played: What each method made.
        judged: What is measured of that.
    """
    missing = [contender.name for contender in asked.contenders if contender not in played]
    parts = [f"Not run, and left out: {'; '.join(missing)}."] if missing else []
    if not played:
        return parts
    names = list(next(iter(judged.values())))
    rows = [
        [
            contender.name,
            len(played[contender].images),
            *map(average_groups, measures.values()),
            *played[contender].costs,
        ]
        for contender, measures in judged.items()
    ]
    header = ["method", "images", *names, "network passes", "s per image"]
    parts.insert(0, table(header, rows))
    for measure in asked.paired:
        values = {contender: measures[measure] for contender, measures in judged.items()}
        if any(one in values and other in values for one, other in asked.questions):
            said = tabulate_differences(values, asked.questions)
            parts += [f"Paired, {measure}:", said]
    means = {contender.name: measures["right"].mean() for contender, measures in judged.items()}
    ranked = " > ".join(
        f"{each} ({means[each]:.2f})" for each in sorted(means, key=lambda m: -means[m])
    )
    return [*parts, f"The order of methods ({name}, right): {ranked}."]


def draw_sheet(
    path: Path,
    title: str,
    asked: Table,
    played: Mapping[Contender, Made],
    judged: Mapping[Contender, Measures],
) -> None:
    """Save a sheet: the first image of some groups by each method, and whether it is right."""
    groups = len(asked.rows)
    some = list(range(0, groups, -(-groups // ROWS)))
    columns = {name: draw()[some] for name, draw in asked.shown.items()}
    captions = {name: [""] * len(some) for name in columns}
    for contender, made in played.items():
        columns[contender.name] = made.images.unflatten(0, (groups, -1))[some, 0]
        right = judged[contender]["right"][some, 0]
        captions[contender.name] = ["right" if each else "no" for each in right]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(columns, [asked.rows[i] for i in some], captions, title).save(path)


def main(argv: Sequence[str] | None = None) -> None:
    options = make_artwork_options()
    arguments = options.parse(argv)
    warnings.filterwarnings("ignore")
    if not arguments.weights.exists():
        raise SystemExit(f"there are no weights in {arguments.weights}: name their --weights")
    world = World(arguments.weights, arguments.artwork, arguments.device)
    for name in arguments.tables:
        asked = TABLES[name](world, arguments)
        if arguments.only is not None:
            begun = tuple(arguments.only)
            chosen = tuple(each for each in asked.contenders if each.name.startswith(begun))
            asked = replace(asked, contenders=chosen)
        passes, folder = world.passes, arguments.work / name
        weights = [arguments.weights / network for network in asked.networks]
        contest = Contest(passes, folder, weights, toy=arguments.toy)
        before = passes.total
        played = contest.play(asked.contenders, asked.ask, () if arguments.collect else None)
        if passes.total > before:
            note_machine(folder, world.machine)
        judged = {
            contender: asked.judge(made.images.to(arguments.device))
            for contender, made in played.items()
        }
        command = write_command(name, arguments)
        text = [
            f"## Real artwork: {TITLES[name]}",
            f"`{command}` on {read_machine(folder, world.machine)}. "
            f"{asked.about} 95 % intervals. A network pass is one guidance pair, forwards or "
            "backwards (a half, without guidance); the hybrid's looks at images are not in that "
            "column. Seconds are those of processes that may have run side by side.",
            *report(name, asked, played, judged),
        ]
        whole = arguments.only is None
        publish(f"artwork-{name}", "\n\n".join(text), dry=arguments.dry or not whole)
        if arguments.sheet is not None and played:
            path = arguments.sheet / f"artwork-{name}.png"
            draw_sheet(path, f"{TITLES[name]}: {command}", asked, played, judged)


if __name__ == "__main__":
    main()
