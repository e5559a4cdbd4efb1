"""DOODL inside a RePaint mask: draw a thing that the model has no word for, where there is room.

`python examples/doodl_in_a_mask.py` writes docs/images/doodl-in-a-mask.png. The mask's rule
(RePaint, eq. 8) holds between all steps of the chain that DOODL differentiates, so the gradient of
the classifier on the *finished* picture moves the noise of the free part, and the rest stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

import chainrule
from chainrule.images import contact_sheet, from_pil
from chainrule.losses import Call, Classifier, load_classifier
from chainrule.methods import DOODL, Adam, Photo, RePaint, Task, constrain_to_mask
from chainrule.methods.best_of import draw_best
from chainrule.scenes.base import SHAPES, Scene, Thing, render
from chainrule.scenes.judge import isolate, load_judge

SEEDS = (0, 1, 2, 3)
PROMPT = "a pink shape above a blue square on a white background"
WANTED = "heart"
DRAWS = 8
ROWS, COLUMNS = slice(1, 33), slice(16, 48)
"""Where the picture may change."""


def make_task() -> Task:
    """A picture whose upper half is free, and a loss that sees nothing else."""
    model = chainrule.load()
    picture = from_pil([render(Scene((Thing("square", "blue", 32, 47, 12),), "white"))])
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, ROWS, COLUMNS] = 1.0
    classifier = Classifier(load_classifier(), WANTED)

    def ask_inside(images: Tensor) -> Tensor:
        """What the classifier says of the free part alone: it knows the square already."""
        return classifier(interpolate(images[:, :, ROWS, COLUMNS], (64, 64), mode="bilinear"))

    pictures, masks = (each.expand(len(SEEDS), -1, -1, -1) for each in (picture, mask))
    photo = Photo(pictures, model.denoiser(""), (64, 64), masks, exact=True)
    return Task(model, model.denoiser(PROMPT), SEEDS, Call(ask_inside), photo)


def describe(images: Tensor) -> list[str]:
    """What the judge sees in the free parts."""
    judge, index = load_judge(), SHAPES.index(WANTED)
    seen = [judge(isolate(image, "pink")[None])[0].softmax(dim=0)[index] for image in images]
    return [f"judge: {p:.0%} {WANTED}" for p in torch.stack(seen).tolist()]


def main(iterations: int, steps: int, output: Path) -> None:
    """Fill the upper half of a picture, and write what came of it."""
    task = make_task()
    masked = constrain_to_mask(task)
    search = draw_best(masked, DRAWS, steps=steps)
    method = DOODL(
        iterations=iterations,
        steps=steps,
        mix=None,
        optimiser=Adam(rate=0.05),
        perturbation=0.0,
        crops=0,
    )
    for state in method.run(masked, method.start(masked, search.x_T)):
        print(state.history[-1].tolist(), flush=True)
    columns = {
        "the picture": task.require_photo().images,
        "RePaint": RePaint(steps=steps, repeats=5)(task).images,
        f"best of {DRAWS} in the mask": search.images,
        "DOODL from there": method.result(masked, state).images,
    }
    captions = {name: describe(images) for name, images in columns.items()}
    captions["the picture"] = [""] * len(SEEDS)
    rows, title = [f"seed {seed}" for seed in SEEDS], f'"{PROMPT}", towards a {WANTED}'
    contact_sheet(columns, rows, captions, title).convert("RGB").save(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--steps", type=int, default=20)
    picture = Path("docs/images/doodl-in-a-mask.png")
    parser.add_argument("--output", type=Path, default=picture)
    main(**vars(parser.parse_args()))
