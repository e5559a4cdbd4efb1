"""Prompt-to-Prompt under a classifier's loss: a pair of pictures that show what no word can say.

They differ in a word besides. `python examples/prompt_to_prompt_towards_a_class.py` writes
docs/images/prompt-to-prompt-towards-a-class.png. Both chains, the source's and the target's that
borrows its attention, start at one noise, and DOODL moves that noise by the exact gradient of a
loss on the *target's* finished picture, through both chains and the attention maps between them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import chainrule
from chainrule.diffusion.constraints import constrain
from chainrule.images import contact_sheet
from chainrule.losses import Classifier, load_classifier
from chainrule.methods import DOODL, Momentum, Photo, Plain, PromptToPrompt, Task
from chainrule.scenes.base import SHAPES
from chainrule.scenes.judge import load_judge, probabilities

SEEDS = (0, 1, 2, 3)
SHOWN, TARGET = "a pink shape on a white background", "a blue shape on a white background"
WANTED = "star"


def make_pair(steps: int) -> Task:
    """The model's own pictures, and the chain beside theirs that borrows its attention."""
    model = chainrule.load()
    shown, wanted = (model.denoiser(prompt) for prompt in (SHOWN, TARGET))
    own = Task(model, shown, SEEDS)
    pictures = Plain(steps=steps)(own).images
    photo = Photo(pictures, shown, (64, 64), x_T=own.x_T, prompts=(SHOWN,))
    loss = Classifier(load_classifier(), WANTED)
    task = Task(model, wanted, SEEDS, loss, photo, prompts=(TARGET,))
    return PromptToPrompt(cross=0.8, self_attention=0.4, steps=steps).pair(task)


@torch.no_grad()
def draw_both(pair: Task, x_T: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The pictures of source and target that start at one noise."""
    solver, model = constrain(chainrule.DDIM(), pair.constraints), pair.model
    times, start = model.schedule.times(steps), solver.start((x_T,))
    (last,) = chainrule.sample_state(pair.denoiser, start, times, solver=solver)
    source, target = last.chunk(2)
    return model.decode(source), model.decode(target)


def describe(images: Tensor) -> list[str]:
    """What the judge sees."""
    seen = probabilities(load_judge(), images)[:, SHAPES.index(WANTED)]
    return [f"judge: {p:.0%} {WANTED}" for p in seen.tolist()]


def main(iterations: int, steps: int, output: Path) -> None:
    """Optimise the noise of four pairs of pictures, and write what came of it."""
    pair = make_pair(steps)
    method = DOODL(
        iterations=iterations,
        steps=steps,
        mix=None,
        optimiser=Momentum(rate=100.0, clip=None),
        perturbation=0.0,
        crops=0,
    )
    for state in method.run(pair, method.start(pair, pair.x_T)):
        print(state.history[-1].tolist(), flush=True)
    x_T = method.result(pair, state).x_T
    images = (*draw_both(pair, pair.x_T, steps), *draw_both(pair, x_T, steps))
    names = ("source", "target", f"source ({WANTED})", f"target ({WANTED})")
    columns = dict(zip(names, images, strict=True))
    captions = {name: describe(each) for name, each in columns.items()}
    rows = [f"seed {seed}" for seed in SEEDS]
    title = f'"{SHOWN}" and "{TARGET}", and the target towards a {WANTED}'
    contact_sheet(columns, rows, captions, title).convert("RGB").save(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    picture = Path("docs/images/prompt-to-prompt-towards-a-class.png")
    parser.add_argument("--output", type=Path, default=picture)
    main(**vars(parser.parse_args()))
