"""What guidance costs, DOODL's Table 2: `python benchmarks/costs.py`.

One image of the bundled model in 50 steps, towards a class: how often the network runs forwards and backwards (on one
guidance pair), how often the loss, and how long it takes, all methods in one run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

import chainrule
from base import Passes, machine, publish, table, timed
from chainrule.losses import Classifier, load_classifier
from chainrule.losses.base import Term
from chainrule.methods import Doodl, Task, doodl, noise_aware, one_step, plain
from chainrule.models.noise_aware import load_noise_aware

STEPS = 50
PROMPT, WANTED = "a red shape on a white background", "heart"


@dataclass
class Counted(Term):
    """A loss that counts the images it is shown."""

    loss: Term
    name: str = "counted"
    images: int = field(default=0)

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.loss(images)


def faithful(iterations: int) -> Doodl:
    return Doodl(iterations=iterations, steps=STEPS)


METHODS: dict[str, Callable[[Task], object]] = {
    "plain": lambda task: plain(task, steps=STEPS),
    "noise-aware": lambda task: noise_aware(task, energy=load_noise_aware(WANTED), scale=30.0, steps=STEPS),
    "one-step": lambda task: one_step(task, scale=30.0, steps=STEPS),
    "DOODL(10), paper's settings": lambda task: doodl(task, faithful(10)),
    "DOODL(50), paper's settings": lambda task: doodl(task, faithful(50)),
    "DOODL(50), DDIM instead of EDICT": lambda task: doodl(task, faithful(50).model_copy(update={"mix": None})),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    model, rows = chainrule.load(), []
    for name, method in METHODS.items():
        loss = Counted(Classifier(load_classifier(), WANTED))
        task = Task(model, model.denoiser(PROMPT), (0,), loss)
        with Passes(model) as count:
            seconds = timed(partial(method, task))
        forwards = (count.images - count.backwards) // 2
        rows.append([name, forwards, count.backwards // 2, loss.images, f"{seconds:.1f}"])
    text = [
        "## What guidance costs",
        f"`python benchmarks/costs.py` on {machine()}. One image, {STEPS} steps; network calls are on one guidance "
        "pair; a crop counts as an image of the loss.",
        table(["method", "network forwards", "network backwards", "images loss_and_gradient", "s"], rows),
    ]
    publish("costs", "\n\n".join(text))


if __name__ == "__main__":
    main()
