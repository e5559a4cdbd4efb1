"""An effect from one before/after pair, loss_and_gradient: `python benchmarks/effect.py`.

A red square, and the same in blue, become a word: how often the thing is blue, and still of the shape that it has
without the word, with other noise, other shapes, backgrounds and colours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule import sample
from chainrule.diffusion.denoiser import Denoiser
from chainrule.methods import Effect, Pair, effect
from chainrule.metrics import wilson
from chainrule.models import Model
from chainrule.pictures import from_pil
from chainrule.scenes.base import Scene, Thing, render
from chainrule.scenes.judge import load_judge, probabilities, read
from chainrule.diffusion.solvers import DPMSolver

BATCH = 64
FRESH = 1000
"""The first seed that nothing was learnt with."""

PROMPTS = {
    "the pair's prompt": ("a red square on a white background",),
    "other shapes, red": ("a red circle on a white background", "a red shape on a white background"),
    "other backgrounds, red": ("a red square on a black background", "a red square on a gray background"),
    "other colours": ("a yellow circle on a white background", "a green square on a gray background"),
}


@torch.no_grad()
def drawn(model: Model, denoiser: Denoiser, seeds: Sequence[int], steps: int) -> Tensor:
    parts = []
    for first in range(0, len(seeds), BATCH):
        x_T = model.noise(seeds[first : first + BATCH])
        parts.append(model.decode(sample(denoiser, x_T, model.schedule.times(steps), solver=DPMSolver())))
    return torch.cat(parts)


def measure(count: int) -> None:
    model, judge, settings = chainrule.load(), load_judge(), Effect()
    before = from_pil([render(Scene((Thing("square", "red", 32, 32, 20, 5.0),), "white"))])
    pair = Pair(model, "a red square on a white background", before, before.flip(1))
    began = time.perf_counter()
    *_, last = effect(pair, settings)
    seconds, vectors = time.perf_counter() - began, last.values["vectors"]
    first, final = (losses.item() / before.numel() for losses in last.losses[[0, -1], 0])
    rows = []
    for name, prompts in PROMPTS.items():
        kept: list[bool] = []
        blue: dict[str, list[bool]] = {"": [], pair.word: []}
        for prompt in prompts:
            shapes = []
            for word, found in blue.items():
                denoiser = pair.denoiser(vectors, f"{prompt} {word}".strip(), 1.0)
                images = drawn(model, denoiser, range(FRESH, FRESH + count), settings.steps)
                found += [bool(things := read(image).things) and things[0].colour == "blue" for image in images]
                shapes.append(probabilities(judge, images).argmax(dim=1))
            kept += (shapes[0] == shapes[1]).tolist()
        rows.append([name, len(kept), *(wilson(sum(v), len(v)) for v in blue.values()), wilson(sum(kept), len(kept))])
    publish(
        "effect",
        "## An effect from one pair\n\n"
        f"`python benchmarks/effect.py --count {count}` on {machine()}. A red square on white and "
        f"the same picture with red and blue exchanged; {settings.vectors} vectors, {settings.iterations} iterations "
        f"of {settings.steps} steps, {seconds:.0f} s; the mean square error fell from {first:.4f} to {final:.4f}. "
        f"Seeds from {FRESH}, {count} for each prompt; 95 % intervals.\n\n"
        + table(["prompts", "images", "blue without the word", "blue with it", "the shape has stayed"], rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=64, help="seeds for each prompt")
    measure(parser.parse_args().count)


if __name__ == "__main__":
    main()
