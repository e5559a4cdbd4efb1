"""An effect from one before/after pair, judged: `python benchmarks/effect.py`.

A red square, and the same in blue, become a word: how often the thing is blue, and still of the
shape that it has without the word, with other noise, other shapes, backgrounds and colours.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

import chainrule
from base import Options, machine, publish, shorten, table
from chainrule.images import from_pil
from chainrule.losses import ImageClassifier
from chainrule.methods import Effect, Task
from chainrule.methods.training import Training
from chainrule.metrics import wilson
from chainrule.scenes.base import Scene, Thing, render
from chainrule.scenes.judge import load_judge, probabilities, read

BATCH = 64
FRESH = 1000
"""The first seed that nothing was learnt with."""

SHOWN = "a red square on a white background"
PROMPTS = {
    "the pair's prompt": (SHOWN,),
    "other shapes, red": (
        "a red circle on a white background",
        "a red shape on a white background",
    ),
    "other backgrounds, red": (
        "a red square on a black background",
        "a red square on a gray background",
    ),
    "other colours": (
        "a yellow circle on a white background",
        "a green square on a gray background",
    ),
}


def make_task() -> Task:
    """The pair of pictures: red and blue are exchanged."""
    model = chainrule.load()
    scene = Scene((Thing("square", "red", 32, 32, 20, 5.0),), "white")
    (before,) = from_pil([render(scene)])
    pictures = before, before.flip(0)
    return Task(model, model.denoiser(SHOWN), (0,), prompts=(SHOWN,), pictures=pictures)


@torch.no_grad()
def draw(task: Task, method: Effect, vectors: Tensor, prompt: str, seeds: Sequence[int]) -> Tensor:
    """The images of a prompt, which may have the word."""
    parts = [seeds[first : first + BATCH] for first in range(0, len(seeds), BATCH)]
    noise = (task.model.noise(part) for part in parts)
    return torch.cat([method.draw(task, vectors, prompt, x_T) for x_T in noise])


@torch.no_grad()
def judge_word(
    task: Task, method: Effect, vectors: Tensor, judge: ImageClassifier, count: int
) -> list[list[object]]:
    """How often things are blue, without the word and with it, and keep their shape."""
    rows: list[list[object]] = []
    for name, prompts in PROMPTS.items():
        kept: list[bool] = []
        blue: dict[str, list[bool]] = {"": [], method.word: []}
        for prompt in prompts:
            shapes = []
            for word, found in blue.items():
                seeds = range(FRESH, FRESH + count)
                images = draw(task, method, vectors, f"{prompt} {word}".strip(), seeds)
                things = [read(image).things for image in images]
                found += [bool(seen) and seen[0].colour == "blue" for seen in things]
                shapes.append(probabilities(judge, images).argmax(dim=1))
            kept += (shapes[0] == shapes[1]).tolist()
        shares = (wilson(sum(values), len(values)) for values in (*blue.values(), kept))
        rows.append([name, len(kept), *shares])
    return rows


def learn(task: Task, method: Effect) -> Training:
    """The word after its last iteration."""
    *_, last = method.run(task)
    return last


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--count", type=int, default=64, toy=2, help="seeds for each prompt")
    arguments = options.parse(argv)
    count, judge = arguments.count, load_judge()
    method = shorten(Effect()) if arguments.toy else Effect()
    task = method.prepare(make_task())
    began = time.perf_counter()
    last = learn(task, method)
    seconds = time.perf_counter() - began
    size = task.pictures[0].numel()
    first, final = (losses.item() / size for losses in last.losses[[0, -1], 0])
    rows = judge_word(task, method, last.values["vectors"], judge, count)
    header = ["prompts", "images", "blue without the word", "blue with it", "the shape has stayed"]
    text = [
        "## An effect from one pair",
        f"`python benchmarks/effect.py --count {count}` on {machine()}. A red square on white and "
        f"the same picture with red and blue exchanged; {method.vectors} vectors, "
        f"{method.iterations} iterations of {method.steps} steps, {seconds:.0f} s; the mean square "
        f"error fell from {first:.4f} to {final:.4f}. Seeds from {FRESH}, {count} for each prompt; "
        "95 % intervals.",
        table(header, rows),
    ]
    publish("effect", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
