"""The world of real artwork, for benchmarks: its model, its pictures, what its judges say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import chainrule
from base import machine, table
from chainrule.images import contact_sheet, from_pil
from chainrule.losses import (
    Clip,
    ImageClassifier,
    Rater,
    load_classifier,
    load_clip,
    load_rater,
)
from chainrule.methods import Photo, Task
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.runs.passes import Passes
from chainrule.sprites.artwork import Artwork, load_artwork
from chainrule.sprites.base import HELD_OUT_KINDS, Scene, render, sample_scene
from chainrule.sprites.judge import Judges, load_judges, read_ground
from chainrule.sprites.things import KINDS
from contest import Case, Contender, Contest, Made, average_groups, tabulate_differences

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "src" / "chainrule" / "sprites" / "weights"
ARTWORK = ROOT / "runs" / "sprites" / "artwork"
SCALE, PHOTO_SCALE = 3.0, 1.5
"""The guidance scales, of images and of edited photos: the shapes'."""

NAMED = tuple(k for k, kind in KINDS.items() if not kind.hidden and k not in HELD_OUT_KINDS)
"""The things that have a word of their own, and that training has shown."""

TUNING_SEEDS = 20_000
"""The first seed of what settings are chosen on. Those of training begin at a million."""


class World:
    """The networks and the artwork of the world of sprites, each loaded when it is asked for.

    Args:
        weights: The folder of the networks.
        artwork: The folder of the artwork.
        device: Where they work.
    """

    def __init__(self, weights: Path, artwork: Path, device: str) -> None:
        self.weights, self.folder, self.device = weights, artwork, device

    @cached_property
    def counted(self) -> tuple[Model, Passes]:
        """The model, at the guidance of the world of shapes, and what it is asked."""
        model = chainrule.load(str(self.weights / "pipeline"), device=self.device)
        return count_passes(replace(model, guidance_scale=SCALE, photo_scale=PHOTO_SCALE))

    @property
    def model(self) -> Model:
        return self.counted[0]

    @property
    def passes(self) -> Passes:
        return self.counted[1]

    @cached_property
    def guide(self) -> ImageClassifier:
        return load_classifier(self.weights / "classifier", self.device, exclusive=False)

    @cached_property
    def clip(self) -> Clip:
        return load_clip(self.weights / "clip", self.device)

    @cached_property
    def judge_clip(self) -> Clip:
        return load_clip(self.weights / "judge_clip", self.device)

    @cached_property
    def rater(self) -> Rater:
        head = self.weights / "rater" / "model.safetensors"
        return load_rater(head, self.weights / "clip", self.device)

    @cached_property
    def judges(self) -> Judges:
        """Who judges; no method sees them."""
        return load_judges(self.weights, self.device)

    @cached_property
    def artwork(self) -> Artwork:
        return load_artwork(self.folder)

    def draw(self, scenes: Sequence[Scene]) -> Tensor:
        """What the scenes look like, (N, 3, 64, 64), where the model is."""
        return from_pil([render(scene, self.artwork) for scene in scenes]).to(self.device)

    def judge(self, scenes: Sequence[Scene], images: Tensor) -> dict[str, np.ndarray]:
        """Whether each image (N, 3, 64, 64) has the thing, the ground and the style of a scene."""
        images = images.to(self.device)
        things, styles = self.judges.name_things(images), self.judges.name_styles(images)
        grounds = [read_ground(image) for image in images.cpu()]
        return {
            "thing": compare(things, [scene.things[0].kind for scene in scenes]),
            "ground": compare(grounds, [scene.ground for scene in scenes]),
            "style": compare(styles, [scene.style for scene in scenes]),
        }

    @property
    def machine(self) -> str:
        """Where it is, in words."""
        on_gpu = self.device.startswith("cuda")
        return f"{machine()}, {torch.cuda.get_device_name(self.device)}" if on_gpu else machine()


def note_machine(folder: Path, here: str) -> None:
    """Write beside images what they were made on."""
    (folder / "machine.txt").write_text(here)


def read_machine(folder: Path, here: str) -> str:
    """What images were made on; `here`, if nobody wrote it."""
    note = folder / "machine.txt"
    return note.read_text() if note.exists() else here


def compare(seen: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """1 where both are the same, (N,)."""
    return np.array([a == b for a, b in zip(seen, wanted, strict=True)], dtype=float)


@dataclass(frozen=True, eq=False)
class Asked:
    """What a table is asked for.

    Args:
        world: Where.
        name: The table's.
        count: How many images each method makes.
        batch: How many at once.
        work: The folder where they are kept.
        only: How the names of the methods begin that are run; None: all are.
        toy: Whether all is at toy size.
        tune: Whether settings are compared, on other pictures.
    """

    world: World
    name: str
    count: int
    batch: int
    work: Path
    only: Sequence[str] | None
    toy: bool
    tune: bool

    @property
    def first(self) -> int:
        """The first seed."""
        return TUNING_SEEDS if self.tune else 0

    @property
    def command(self) -> str:
        """How the table is made, and where it was."""
        tune = " --tune" if self.tune else ""
        line = f"python benchmarks/artwork_edits.py --tables {self.name} --count {self.count}{tune}"
        return f"`{line}` on {read_machine(self.folder, self.world.machine)}."

    @property
    def folder(self) -> Path:
        return self.work / (f"{self.name}-tuning" if self.tune else self.name)

    def play(
        self,
        contenders: Sequence[Contender],
        cases: Sequence[Case] | Callable[[Contender], Sequence[Case]],
        guides: Sequence[str] = (),
    ) -> dict[Contender, Made]:
        """What the methods make, `guides` being the networks besides the generator that help."""
        weights = [self.world.weights / name for name in ("pipeline", *guides)]
        contest = Contest(self.world.passes, self.folder, weights, toy=self.toy)
        before = self.world.passes.total
        played = contest.play(contenders, cases, self.only)
        if self.world.passes.total > before:
            note_machine(self.folder, self.world.machine)
        return played

    def share(self, most: int) -> tuple[int, int]:
        """The images in equal groups: how many groups, `most` at most, and images in each."""
        groups = min(most, self.count)
        return groups, self.count // groups


@dataclass(frozen=True)
class Report:
    """A table.

    Args:
        text: The section, as Markdown.
        sheet: Draws its pictures.
    """

    text: str
    sheet: Callable[[], Image.Image]


Values = Mapping[Contender, Mapping[str, np.ndarray]]
"""What was judged of each method's images, by name, each (N,)."""


def tabulate(values: Values, made: Mapping[Contender, Made]) -> str:
    """A row for each method: means with their intervals, and what an image costs."""
    names = list(next(iter(values.values()), {}))
    rows = [
        [c.name, *(average_groups(found[name]) for name in names), *made[c].costs]
        for c, found in values.items()
    ]
    return table(["method", *names, "network passes", "s per image"], rows)


def compare_pairs(values: Values, name: str, base: Contender) -> str:
    """The paired differences of one judgement: every method less `base`."""
    found = {contender: judged[name] for contender, judged in values.items()}
    questions = [(contender, base) for contender in found if contender is not base]
    return f"Paired, {name}:\n\n{tabulate_differences(found, questions)}"


def order(values: Values, name: str) -> str:
    """The methods from the best to the worst by one judgement."""
    means = {contender.name: judged[name].mean() for contender, judged in values.items()}
    best = sorted(means, key=lambda each: -means[each])
    return f"Order, by {name}: " + "; ".join(f"{each} {means[each]:.2f}" for each in best) + "."


def draw_sheet(
    title: str, rows: Sequence[str], before: Mapping[str, Tensor], made: Mapping[str, Tensor]
) -> Image.Image:
    """Some cases: a row for each, what was there before and what each method made of it."""
    columns = {name: images.cpu() for name, images in (*before.items(), *made.items())}
    captions = {name: [""] * len(rows) for name in columns}
    return contact_sheet(columns, [row[:40] for row in rows], captions, title)


def shorten(contender: Contender) -> str:
    """A method's name without its settings."""
    return contender.name.split(", strength")[0].split(", r =")[0]


# --- pictures ------------------------------------------------------------------------------------


def find_scenes(
    first: int, *, kinds: Sequence[str] = NAMED, style: str | None = None
) -> Iterator[Scene]:
    """Scenes of a single thing of the usual size on an even ground, whose captions say all.

    Args:
        first: The first seed.
        kinds: What the thing may be.
        style: Its style; None: any.
    """
    for seed in count(first):
        scene = sample_scene(seed, kinds=kinds, style=style, single=True)
        if scene.size_word is None:
            yield replace(scene, graded=False, style_said=True)


def list_scenes(number: int, first: int, *, style: str | None = None) -> list[Scene]:
    """The first so many."""
    return list(islice(find_scenes(first, style=style), number))


@dataclass(frozen=True)
class Edit:
    """An edit that is asked for.

    Args:
        before: What the picture shows.
        after: What it should show.
    """

    before: Scene
    after: Scene


def make_cases(
    world: World,
    name: str,
    edits: Sequence[Edit],
    first: int,
    batch: int,
    make: Callable[[World, Sequence[Edit], tuple[int, ...]], Task] | None = None,
) -> list[Case]:
    """The edits, so many at a time.

    Args:
        world: Where.
        name: Tells them from others.
        edits: What is asked for.
        first: The first one's seed.
        batch: How many are asked for together.
        make: Makes the task of some of them.
    """
    found = []
    for start in range(0, len(edits), batch):
        some = edits[start : start + batch]
        seeds = tuple(range(first + start, first + start + len(some)))
        task = partial(make or make_task, world, some, seeds)
        found.append(Case(f"{name}-{seeds[0]}-{len(seeds)}", seeds, task))
    return found


def make_task(world: World, edits: Sequence[Edit], seeds: tuple[int, ...]) -> Task:
    """Pictures to be edited by what their captions say, before and after."""
    before = tuple(edit.before.caption for edit in edits)
    after = tuple(edit.after.caption for edit in edits)
    images, model = world.draw([edit.before for edit in edits]), world.model
    photo = Photo(images, model.denoiser(before), (64, 64), prompts=before)
    return Task(model, model.denoiser(after), seeds, None, photo, prompts=after)
