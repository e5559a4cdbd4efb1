"""Prompt-to-Prompt under a classifier's loss: a pair of pictures that differ in a word, and show what it cannot say.

`python examples/prompt_to_prompt_towards_a_class.py` writes docs/images/prompt-to-prompt-towards-a-class.png. Both
chains, the source's and the target's that borrows its attention, start at one noise, and DOODL moves that noise by the
exact gradient of a loss on the *target's* finished picture, through both chains and the attention maps between them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import chainrule
from chainrule.diffusion.constraints import constrain
from chainrule.losses import Classifier, load_classifier
from chainrule.methods import Attention, Doodl, Momentum, Photo, Task, doodl, plain, side_by_side
from chainrule.pictures import grid
from chainrule.scenes.base import SHAPES
from chainrule.scenes.judge import load_judge, probabilities

SEEDS = (0, 1, 2, 3)
SHOWN, TARGET = "a pink shape on a white background", "a blue shape on a white background"
WANTED = "star"


def main(iterations: int, steps: int, output: Path) -> None:
    """Optimise the noise of four pairs of pictures, and write what came of it."""
    model, judge = chainrule.load(), load_judge()
    shown, wanted = (model.denoiser(prompt) for prompt in (SHOWN, TARGET))
    own = Task(model, shown, SEEDS)
    photo = Photo(plain(own, steps=steps).images, shown, (64, 64), x_T=own.x_T)  # the model's own pictures
    task = Task(model, wanted, SEEDS, Classifier(load_classifier(), WANTED), photo)
    pair = side_by_side(task, SHOWN, TARGET, Attention(cross=0.8, own=0.4), steps=steps)

    @torch.no_grad()
    def both(x_T: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures of source and target that start at one noise."""
        solver, times = constrain(chainrule.DDIM(), pair.constraints), model.schedule.times(steps)
        (last,) = chainrule.sample_state(pair.denoiser, solver.init(x_T), times, solver=solver)
        source, target = last.chunk(2)
        return model.decode(source), model.decode(target)

    optimiser = Momentum(rate=100.0, clip=None)
    settings = Doodl(iterations=iterations, steps=steps, mix=None, optimiser=optimiser, perturbation=0.0, crops=0)
    found = doodl(
        pair, settings, x_T=task.x_T, on_iteration=lambda state: print(state.history[-1].tolist(), flush=True)
    )
    names = ("source", "target", f"source ({WANTED})", f"target ({WANTED})")
    columns = dict(zip(names, (*both(task.x_T), *both(found.x_T)), strict=True))

    index = SHAPES.index(WANTED)
    notes = {
        name: [f"judge: {p:.0%} {WANTED}" for p in probabilities(judge, images)[:, index].tolist()]
        for name, images in columns.items()
    }
    title = f'"{SHOWN}" and "{TARGET}", and the target towards a {WANTED}'
    grid(columns, [f"seed {seed}" for seed in SEEDS], notes, title).convert("RGB").save(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("docs/images/prompt-to-prompt-towards-a-class.png"))
    main(**vars(parser.parse_args()))
