"""Vocabulary expansion, DOODL's Table 3 on the bundled world: `python benchmarks/vocabulary.py`.

Towards each of the eight shapes that no caption names: how often the judge (which no guidance ever touched) sees the
wanted shape, how often the guide does, and the Frechet distance in the judge's features to fresh renders of the class,
for every method. Methods share prompts and seeds. What was chosen (scale, rate, crops) was chosen on other seeds
(`--tune`). Results are kept in the work folder, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule.loss import Classifier, load_classifier
from chainrule.loss.classifier import ImageClassifier
from chainrule.methods import Adam, Doodl, Momentum, Result, Task, best_of, doodl, one_step, plain
from chainrule.methods.presets import PRESETS
from chainrule.metrics import bootstrap, frechet_distance, wilson
from chainrule.models import Model
from chainrule.scenes.base import HIDDEN_SHAPES, SHAPES, render, sample_scene
from chainrule.scenes.judge import load_judge

PROMPTS = (("red", "white"), ("blue", "gray"))
FIRST_SEED, TUNING_SEED = 0, 10_000


@dataclass(frozen=True)
class Contender:
    """A method under test. `seeds` is how many of the seeds it is run on (None: all)."""

    name: str
    run: Callable[[Task], Result]
    seeds: int | None = None


def tuned(**changes: object) -> Doodl:
    return PRESETS["tuned"].model_copy(update=changes)


def one_step_at(scale: float) -> Callable[[Task], Result]:
    return lambda task: one_step(task, scale=scale, steps=STEPS)


def best_of_at(count: int) -> Callable[[Task], Result]:
    return lambda task: best_of(task, count, steps=STEPS)


def doodl_at(settings: Doodl) -> Callable[[Task], Result]:
    return lambda task: doodl(task, settings)


STEPS = PRESETS["tuned"].steps
EQUAL = 3 * PRESETS["tuned"].iterations
"""As many draws as cost what DOODL tuned does: three network passes a step and iteration (DDIM, Checkpoint)."""

CONTENDERS = (
    Contender("plain", lambda task: plain(task, steps=STEPS)),
    Contender("one-step, scale 30", one_step_at(30.0)),
    Contender("best of 16", best_of_at(16)),
    Contender(f"best of {EQUAL} (the cost of DOODL tuned)", best_of_at(EQUAL)),
    Contender("DOODL tuned", doodl_at(PRESETS["tuned"])),
    Contender("DOODL tuned, from the seed's own noise", doodl_at(tuned(start_of=1))),
    Contender("DOODL faithful (clip 1e-3, m = 50, T = 50)", doodl_at(PRESETS["faithful"]), seeds=4),
)

TUNING = (
    *(Contender(f"one-step, scale {scale:g}", one_step_at(scale)) for scale in (3.0, 10.0, 30.0, 100.0, 300.0)),
    *(
        Contender(f"DOODL Adam {rate}, {crops} crops", doodl_at(tuned(optimiser=Adam(rate=rate), crops=crops)))
        for rate in (0.05, 0.1, 0.2)
        for crops in (0, 4)
    ),
    *(
        Contender(f"DOODL momentum, clip {clip}", doodl_at(tuned(optimiser=Momentum(rate=100.0, clip=clip))))
        for clip in (1e-2, 3e-2)
    ),
)


class Calls:
    """Counts the images that go through a U-Net, forwards."""

    def __init__(self, model: Model) -> None:
        self.images = 0
        model.network.unet.register_forward_pre_hook(self._count)  # type: ignore[attr-defined]

    def _count(self, module: object, inputs: tuple[Tensor, ...]) -> None:
        self.images += len(inputs[0])


@torch.no_grad()
def features(judge: ImageClassifier, images: Tensor) -> Tensor:
    """The judge's features before its last layer, (N, 128)."""
    network = judge.network.network  # type: ignore[attr-defined]
    return torch.cat([network.convnext(part * 2 - 1).pooler_output for part in images.split(256)])


def renders(shape: str, count: int) -> Tensor:
    """Fresh renders of a class in the prompts' colours and backgrounds."""
    scenes = [sample_scene(seed, shape=shape, single=True) for seed in range(count)]
    for i, scene in enumerate(scenes):
        colour, background = PROMPTS[i % len(PROMPTS)]
        scenes[i] = replace(scene, things=(replace(scene.things[0], colour=colour),), background=background)
    return torch.from_numpy(np.stack([np.asarray(render(scene)) for scene in scenes])).permute(0, 3, 1, 2) / 255


def produce(
    contender: Contender, model: Model, guide: ImageClassifier, calls: Calls, seeds: range, folder: Path, batch: int
) -> None:
    """Run one method on every class and prompt, and keep its images."""
    seeds = seeds[: contender.seeds] if contender.seeds else seeds
    for shape in HIDDEN_SHAPES:
        for colour, background in PROMPTS:
            for start in range(0, len(seeds), batch):
                part = tuple(seeds[start : start + batch])
                path = folder / contender.name / f"{shape}-{colour}-{part[0]}-{len(part)}.safetensors"
                if path.exists():
                    continue
                denoiser = model.denoiser(f"a {colour} shape on a {background} background")
                calls.images, began = 0, time.perf_counter()
                result = contender.run(Task(model, denoiser, part, Classifier(guide, shape)))
                seconds = time.perf_counter() - began
                path.parent.mkdir(parents=True, exist_ok=True)
                cost = torch.tensor([calls.images / 2 / len(part), seconds / len(part)])
                save_file({"images": result.images.clone(), "cost": cost}, path)
                print(f"{contender.name}: {shape}, {colour}, seeds {part[0]}+{len(part)}: {seconds:.0f} s", flush=True)


@torch.no_grad()
def summary(contender: Contender, judge: ImageClassifier, guide: ImageClassifier, folder: Path) -> list[object]:
    """The row of one method."""
    seen: list[bool] = []
    guided: list[bool] = []
    distances, costs = [], []
    for shape in HIDDEN_SHAPES:
        parts = [load_file(path) for path in sorted((folder / contender.name).glob(f"{shape}-*.safetensors"))]
        images = torch.cat([part["images"] for part in parts])
        index = SHAPES.index(shape)
        seen += (judge(images).argmax(dim=1) == index).tolist()
        guided += (guide(images).argmax(dim=1) == index).tolist()
        distances.append(frechet_distance(features(judge, images), features(judge, renders(shape, 512))))
        costs += [part["cost"] for part in parts]
    calls, seconds = torch.stack(costs).mean(dim=0).tolist()
    return [
        contender.name, len(seen), wilson(sum(seen), len(seen)), wilson(sum(guided), len(guided)), bootstrap(distances),
        f"{calls:.0f}", f"{seconds:.1f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=16, help="for each class and each of the two prompts")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tune", action="store_true", help="compare hyper-parameters on other seeds")
    parser.add_argument("--only", nargs="*", help="methods whose name begins so")
    parser.add_argument("--work", type=Path, default=Path("runs/vocabulary"))
    arguments = parser.parse_args()
    model, judge, guide = chainrule.load(), load_judge(), load_classifier()
    calls = Calls(model)
    first = TUNING_SEED if arguments.tune else FIRST_SEED
    seeds = range(first, first + arguments.seeds)
    folder = arguments.work / ("tune" if arguments.tune else "test")
    contenders = TUNING if arguments.tune else CONTENDERS
    for contender in contenders:
        if not arguments.only or contender.name.startswith(tuple(arguments.only)):
            produce(contender, model, guide, calls, seeds, folder, arguments.batch)
    done = [contender for contender in contenders if (folder / contender.name).exists()]
    rows = [summary(contender, judge, guide, folder) for contender in done]
    header = ["method", "images", "judge", "guide", "Frechet distance", "network calls", "s per image"]
    name = "vocabulary-tuning" if arguments.tune else "vocabulary"
    publish(
        name,
        f"## Vocabulary expansion{', choosing on other seeds' if arguments.tune else ''}\n\n"
        f"`python benchmarks/vocabulary.py --seeds {arguments.seeds}{' --tune' if arguments.tune else ''}` on "
        f"{machine()}. Eight classes, two prompts, seeds from {first}; 95 % intervals (the distance's: over classes); "
        "a network call is one guidance pair forwards.\n\n" + table(header, rows),
    )


if __name__ == "__main__":
    main()
