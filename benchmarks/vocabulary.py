"""Vocabulary expansion, DOODL's Table 3 on the bundled world: `python benchmarks/vocabulary.py`.

Towards each of the eight shapes that no caption names: how often the judge (which no guidance ever touched) sees the
wanted shape, how often the guide does, and the Frechet distance in the judge's features to fresh renders of the class.
All methods share prompts and seeds. What was chosen (scale, rate, crops) was chosen on other seeds (`--tune`).

The classes share the seeds' noise, so intervals of success resample seeds, not images; those of the distance resample
classes. Differences between methods are paired. Images are kept in the work folder, under the settings and the weights
that made them, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule import bundled
from chainrule.denoiser import Denoiser
from chainrule.loss import Classifier, load_classifier
from chainrule.loss.classifier import ImageClassifier
from chainrule.methods import Adam, Doodl, Momentum, Result, Task, best, doodl, draws, one_step, plain
from chainrule.methods.presets import PRESETS
from chainrule.metrics import bootstrap, frechet_distance, wilson
from chainrule.models import Model
from chainrule.scenes.base import HIDDEN_SHAPES, SHAPES, render, sample_scene
from chainrule.scenes.judge import load_judge

PROMPTS = (("red", "white"), ("blue", "gray"))
FIRST_SEED, TUNING_SEED = 0, 10_000
WANTED = torch.tensor([SHAPES.index(shape) for shape in HIDDEN_SHAPES])
TUNED, FAITHFUL = PRESETS["tuned"], PRESETS["faithful"]
STEPS = TUNED.doodl.steps
EQUAL = TUNED.doodl.start_of + 3 * TUNED.doodl.iterations + 1
"""As many draws as cost what DOODL tuned does: its start, three network passes a step and iteration, the last image."""


@lru_cache(maxsize=1)
def drawn(model: Model, denoiser: Denoiser, seeds: tuple[int, ...], count: int, steps: int) -> list[Result]:
    return draws(Task(model, denoiser, seeds), count, steps=steps)


def best_of(task: Task, count: int, steps: int) -> Result:
    """`chainrule.methods.best_of`, whose draws the classes share: only the choice depends on the class."""
    return best(drawn(task.model, task.denoiser, task.seeds, count, steps), task.wanted())


@dataclass(frozen=True, eq=False)
class Contender:
    """A method under test. `seeds` is how many of each prompt's seeds it is run on (None: all)."""

    name: str
    method: Callable[..., Result]
    settings: dict[str, object] = field(default_factory=dict)
    seeds: int | None = None

    def folder(self, work: Path) -> Path:
        """Where its images are kept: another place for other settings or other weights."""
        made_by = f"{self.method.__name__} {self.settings}".encode()
        for folder in (bundled.PIPELINE, bundled.CLASSIFIER):
            made_by += b"".join(path.read_bytes() for path in sorted(folder.rglob("*.safetensors")))
        return work / f"{self.name} {zlib.crc32(made_by):08x}"


def guided(name: str, settings: Doodl, seeds: int | None = None) -> Contender:
    return Contender(name, doodl, {"settings": settings}, seeds)


def tuned(**changes: object) -> Doodl:
    """What tuning starts from, the best of 8 draws and 15 iterations, with `changes`: it does not follow the preset."""
    return TUNED.doodl.model_copy(update={"start_of": 8, "iterations": 15, "crops": 4, **changes})


def one_step_at(scale: float) -> Contender:
    return Contender(f"one-step, scale {scale:g}", one_step, {"scale": scale, "steps": STEPS})


PLAIN = Contender("plain", plain, {"steps": STEPS})
ONE_STEP = one_step_at(TUNED.one_step_scale)
BEST_OF_START = Contender(
    f"best of {TUNED.doodl.start_of} (DOODL tuned's start)", best_of, {"count": TUNED.doodl.start_of, "steps": STEPS}
)
BEST_OF_EQUAL = Contender(f"best of {EQUAL} (the cost of DOODL tuned)", best_of, {"count": EQUAL, "steps": STEPS})
DOODL_TUNED = guided("DOODL tuned", TUNED.doodl)
DOODL_FAITHFUL = guided("DOODL faithful", FAITHFUL.doodl, seeds=2)
CONTENDERS = (PLAIN, ONE_STEP, BEST_OF_START, BEST_OF_EQUAL, DOODL_TUNED, DOODL_FAITHFUL)
QUESTIONS = (
    (ONE_STEP, PLAIN),
    (DOODL_TUNED, PLAIN),
    (DOODL_TUNED, ONE_STEP),
    (DOODL_TUNED, BEST_OF_START),
    (DOODL_TUNED, BEST_OF_EQUAL),
)

TUNING = (
    *(one_step_at(scale) for scale in (3.0, 10.0, 30.0, 100.0, 300.0)),
    *(
        guided(f"DOODL Adam {rate}, {crops} crops", tuned(optimiser=Adam(rate=rate), crops=crops))
        for rate, crops in ((0.05, 4), (0.1, 4), (0.2, 4), (0.1, 0))
    ),
    *(
        guided(
            f"DOODL start of {count}, {iterations} iterations",
            tuned(start_of=count, iterations=iterations, optimiser=Adam(rate=0.05)),
        )
        for count, iterations in ((16, 12), (32, 7))
    ),
    guided("DOODL momentum, clip 0.01", tuned(optimiser=Momentum(rate=100.0, clip=1e-2))),
)


class Passes:
    """Counts the images that pass through a U-Net, forwards and backwards."""

    def __init__(self, model: Model) -> None:
        self.images = 0
        model.network.unet.register_forward_hook(self._forwards)  # type: ignore[attr-defined]

    def _forwards(self, module: object, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        self.images += len(inputs[0])
        if output[0].requires_grad:
            output[0].register_hook(self._backwards)

    def _backwards(self, gradient: Tensor) -> None:
        self.images += len(gradient)


@dataclass(frozen=True)
class Batch:
    """One prompt and some of its seeds."""

    colour: str
    background: str
    seeds: tuple[int, ...]

    def path(self, folder: Path, shape: str) -> Path:
        return folder / f"{shape}-{self.seeds[0]}-{len(self.seeds)}.safetensors"


def batches(first: int, count: int, size: int, limit: int | None) -> Iterator[Batch]:
    """`count` seeds from `first`, shared out among the prompts; the first `limit` of each's, `size` at a time."""
    each = count // len(PROMPTS)
    for i, (colour, background) in enumerate(PROMPTS):
        seeds = tuple(range(first + i * each, first + (i + 1) * each))[:limit]
        for start in range(0, len(seeds), size):
            yield Batch(colour, background, seeds[start : start + size])


def produce(
    contender: Contender, model: Model, guide: ImageClassifier, passes: Passes, parts: list[Batch], folder: Path
) -> None:
    """Run one method on every class and batch of seeds, and keep its images."""
    for part in parts:
        denoiser = model.denoiser(f"a {part.colour} shape on a {part.background} background")
        for shape in HIDDEN_SHAPES:
            path = part.path(folder, shape)
            if path.exists():
                continue
            passes.images, began = 0, time.perf_counter()
            task = Task(model, denoiser, part.seeds, Classifier(guide, shape))
            result = contender.method(task, **contender.settings)
            seconds = time.perf_counter() - began
            path.parent.mkdir(parents=True, exist_ok=True)
            cost = torch.tensor([passes.images / 2 / len(part.seeds), seconds / len(part.seeds)])
            save_file({"images": result.images.clone(), "cost": cost}, path)
            print(f"{contender.name}: {shape}, {part.colour}, {len(part.seeds)} seeds: {seconds:.0f} s", flush=True)


@torch.no_grad()
def features(judge: ImageClassifier, images: Tensor) -> Tensor:
    """The judge's features before its last layer, (N, 128)."""
    network = judge.network.network  # type: ignore[attr-defined]
    return torch.cat([network.convnext(part * 2 - 1).pooler_output for part in images.split(256)])


@lru_cache(maxsize=len(HIDDEN_SHAPES))
def reference(judge: ImageClassifier, shape: str, count: int = 512) -> Tensor:
    """The judge's features of fresh renders of a class, in the prompts' colours and backgrounds."""
    scenes = [sample_scene(seed, shape=shape, single=True) for seed in range(count)]
    for i, scene in enumerate(scenes):
        colour, background = PROMPTS[i % len(PROMPTS)]
        scenes[i] = replace(scene, things=(replace(scene.things[0], colour=colour),), background=background)
    pixels = np.stack([np.asarray(render(scene)) for scene in scenes])
    return features(judge, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)


@dataclass(frozen=True)
class Outcome:
    """What became of one method: the shapes that the judge and the guide see, as indices (seeds, classes), the judge's
    features (seeds, classes, 128), the cost.
    """

    seeds: tuple[int, ...]
    by_judge: Tensor
    by_guide: Tensor
    features: Tensor
    passes: float
    seconds: float

    def of(self, seeds: tuple[int, ...]) -> Outcome:
        """The same for some of the seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return replace(
            self, seeds=seeds, by_judge=self.by_judge[rows], by_guide=self.by_guide[rows], features=self.features[rows]
        )

    @property
    def judged(self) -> Tensor:
        """Whether the judge sees the wanted shape, (seeds, classes)."""
        return (self.by_judge == WANTED).float()

    @property
    def guided(self) -> Tensor:
        """Whether the guide does."""
        return (self.by_guide == WANTED).float()

    def changed(self, other: Outcome) -> Tensor:
        """Where `other` did not show the wanted shape: whether this shows another shape than it does, (n,)."""
        return (self.by_judge != other.by_judge)[other.judged == 0].float()

    def distances(self, judge: ImageClassifier) -> np.ndarray:
        """The Frechet distance of each class to its renders."""
        return np.array(
            [frechet_distance(self.features[:, i], reference(judge, shape)) for i, shape in enumerate(HIDDEN_SHAPES)]
        )


@torch.no_grad()
def outcome(judge: ImageClassifier, guide: ImageClassifier, parts: list[Batch], folder: Path) -> Outcome:
    judged, guided_, seen, costs = [], [], [], []
    for shape in HIDDEN_SHAPES:
        kept = [load_file(part.path(folder, shape)) for part in parts]
        images = torch.cat([each["images"] for each in kept])
        judged.append(judge(images).argmax(dim=1))
        guided_.append(guide(images).argmax(dim=1))
        seen.append(features(judge, images))
        costs.append(torch.stack([each["cost"] for each in kept]))
    # (classes, batches, 2): where the classes share a batch's draws, the first one paid for all
    cost = torch.stack(costs)
    shared = bool((cost[1:, :, 0] == 0).all())
    passes, seconds = (cost.amax(dim=0) if shared else cost.flatten(0, 1)).mean(dim=0).tolist()
    by_judge, by_guide = (torch.stack(values, dim=1) for values in (judged, guided_))
    seeds = tuple(seed for part in parts for seed in part.seeds)
    return Outcome(seeds, by_judge, by_guide, torch.stack(seen, dim=1), passes, seconds)


def row(name: str, found: Outcome, judge: ImageClassifier) -> list[object]:
    by_seed, by_guide = (bootstrap(values.mean(dim=1).tolist()) for values in (found.judged, found.guided))
    distance = bootstrap(found.distances(judge).tolist())
    return [name, found.judged.numel(), by_seed, by_guide, distance, f"{found.passes:.0f}", f"{found.seconds:.1f}"]


def difference(one: Outcome, other: Outcome, judge: ImageClassifier) -> list[object]:
    """Of success (paired by seed), and of the distance (paired by class)."""
    success = (one.judged - other.judged).mean(dim=1)
    return [bootstrap(success.tolist()), bootstrap((one.distances(judge) - other.distances(judge)).tolist())]


def changes(found: Outcome, before: Outcome, contender: Contender) -> str:
    """How often a method leaves the shape that it started from."""
    values = found.changed(before)
    share = wilson(int(values.sum()), len(values))
    return (
        f"Of {len(values)} plain images of other shapes than the wanted, {contender.name} changed the shape of {share}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=32, help="for each class, shared out among the prompts")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tune", action="store_true", help="compare hyper-parameters on other seeds")
    parser.add_argument("--only", nargs="*", help="methods whose name begins so")
    parser.add_argument("--work", type=Path, default=Path("runs/vocabulary"))
    arguments = parser.parse_args()
    model, judge, guide = chainrule.load(), load_judge(), load_classifier()
    first = TUNING_SEED if arguments.tune else FIRST_SEED
    passes, found = Passes(model), dict[Contender, Outcome]()
    for contender in TUNING if arguments.tune else CONTENDERS:
        folder = contender.folder(arguments.work)
        parts = list(batches(first, arguments.seeds, arguments.batch, contender.seeds))
        if not arguments.only or contender.name.startswith(tuple(arguments.only)):
            produce(contender, model, guide, passes, parts, folder)
        if all(part.path(folder, shape).exists() for part in parts for shape in HIDDEN_SHAPES):
            found[contender] = outcome(judge, guide, parts, folder)
    publish(*report(found, judge, first, arguments.seeds, arguments.tune))


def report(
    found: dict[Contender, Outcome], judge: ImageClassifier, first: int, count: int, tune: bool
) -> tuple[str, str]:
    """(the section's name, its text)."""
    header = ["method", "images", "judge", "guide", "Frechet distance", "network passes", "s per image"]
    whole = {contender: each for contender, each in found.items() if len(each.seeds) == count}
    text = [
        f"## Vocabulary expansion{', choosing on other seeds' if tune else ''}",
        f"`python benchmarks/vocabulary.py --seeds {count}{' --tune' if tune else ''}` on {machine()}. Eight classes, "
        f"two prompts, seeds from {first}; 95 % intervals, of success over seeds, of the distance over classes; a "
        "network pass is one guidance pair, forwards or backwards."
        + (
            " DOODL starts at the best of 8 draws and takes 15 iterations unless its name says otherwise."
            if tune
            else ""
        ),
        table(header, [row(contender.name, each, judge) for contender, each in whole.items()]),
    ]
    for contender, few in found.items():
        if contender not in whole:
            same = {other: each.of(few.seeds) for other, each in whole.items()} | {contender: few}
            text += [
                f"On the {len(few.seeds)} seeds of {contender.name} (distances of sets of other sizes do not compare):",
                table(header, [row(other.name, each, judge) for other, each in same.items()]),
            ]
            if PLAIN in same and ONE_STEP in same:
                text += [f"{changes(few, same[PLAIN], contender)} {changes(same[ONE_STEP], same[PLAIN], ONE_STEP)}"]
    asked = [(one, other) for one, other in QUESTIONS if one in whole and other in whole]
    if asked and not tune:
        rows = [[f"{a.name}, less {b.name}", *difference(whole[a], whole[b], judge)] for a, b in asked]
        text += ["Differences, paired:", table(["", "judge", "Frechet distance"], rows)]
    return "vocabulary-tuning" if tune else "vocabulary", "\n\n".join(text)


if __name__ == "__main__":
    main()
