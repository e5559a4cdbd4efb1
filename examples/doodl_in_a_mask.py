"""DOODL inside a RePaint mask: draw, where a picture may change, a thing that the model has no word for.

`python examples/doodl_in_a_mask.py` writes docs/images/doodl-in-a-mask.png. The mask's rule (RePaint, eq. 8) is constrain
between all steps of the chain that DOODL differentiates, so the gradient of the classifier on the *finished* picture
moves the noise of the free part, and the rest stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

import chainrule
from chainrule.losses import Call, Classifier, load_classifier
from chainrule.methods import Adam, Doodl, Photo, Task, best_of, doodl, masked, repaint
from chainrule.pictures import from_pil, grid
from chainrule.scenes.base import SHAPES, Scene, Thing, render
from chainrule.scenes.judge import isolate, load_judge

SEEDS = (0, 1, 2, 3)
PROMPT = "a pink shape above a blue square on a white background"
WANTED = "heart"
DRAWS = 8
ROWS, COLUMNS = slice(1, 33), slice(16, 48)
"""Where the picture may change."""


def main(iterations: int, steps: int, output: Path) -> None:
    """Fill the upper half of a picture, and write what came of it."""
    model, judge = chainrule.load(), load_judge()
    picture = from_pil([render(Scene((Thing("square", "blue", 32, 47, 12),), "white"))])
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, ROWS, COLUMNS] = 1.0
    classifier = Classifier(load_classifier(), WANTED)

    def inside(images: Tensor) -> Tensor:
        """What the classifier says of the free part alone: it knows the square already."""
        return classifier(interpolate(images[:, :, ROWS, COLUMNS], (64, 64), mode="bilinear"))

    each = (len(SEEDS), -1, -1, -1)
    photo = Photo(picture.expand(each), model.denoiser(""), (64, 64), mask.expand(each), exact=True)
    task = Task(model, model.denoiser(PROMPT), SEEDS, Call(inside), photo)
    masked_task = masked(task)
    search = best_of(masked_task, DRAWS, steps=steps)
    optimiser = Adam(rate=0.05)
    settings = Doodl(iterations=iterations, steps=steps, mix=None, optimiser=optimiser, perturbation=0.0, crops=0)
    found = doodl(masked_task, settings, x_T=search.x_T, on_iteration=lambda state: print(state.history[-1].tolist()))
    columns = {
        "the picture": photo.images,
        "RePaint": repaint(task, steps=steps, repeats=5).images,
        f"best of {DRAWS} in the mask": search.images,
        "DOODL from there": found.images,
    }

    index = SHAPES.index(WANTED)
    notes = {}
    for name, images in columns.items():
        seen = torch.stack([judge(isolate(image, "pink")[None])[0].softmax(dim=0)[index] for image in images])
        notes[name] = [f"judge: {p:.0%} {WANTED}" for p in seen.tolist()]
    notes["the picture"] = [""] * len(SEEDS)
    title = f'"{PROMPT}", towards a {WANTED}'
    grid(columns, [f"seed {seed}" for seed in SEEDS], notes, title).convert("RGB").save(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("docs/images/doodl-in-a-mask.png"))
    main(**vars(parser.parse_args()))
