"""What guidance costs, DOODL's Table 2: `python benchmarks/costs.py`.

One image of the bundled model in 50 steps, towards a class: how often the network runs forwards and
backwards (on one guidance pair), how often the loss, and how long it takes, all methods in one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

import chainrule
from base import Options, machine, measure_seconds, publish, shorten, table
from chainrule.losses import Classifier, Term, load_classifier
from chainrule.methods import DOODL, Method, NoiseAwareGuidance, OneStepGuidance, Plain, Task
from chainrule.models.noise_aware import load_noise_aware
from chainrule.runs import count_passes

STEPS = 50
PROMPT, WANTED = "a red shape on a white background", "heart"


@dataclass
class Counted(Term):
    """A loss that counts the images it is shown."""

    loss: Term
    images: int = field(default=0)

    @property
    def name(self) -> str:
        return "counted"

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.loss(images)


METHODS: dict[str, Method] = {
    "plain": Plain(steps=STEPS),
    "noise-aware": NoiseAwareGuidance(scale=30.0, steps=STEPS),
    "one-step": OneStepGuidance(scale=30.0, steps=STEPS),
    "DOODL(10), paper's settings": DOODL(iterations=10, steps=STEPS),
    "DOODL(50), paper's settings": DOODL(iterations=50, steps=STEPS),
    "DOODL(50), DDIM instead of EDICT": DOODL(iterations=50, steps=STEPS, mix=None),
}


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--threads", type=int, default=2, toy=1)
    arguments = options.parse(argv)
    torch.set_num_threads(arguments.threads)
    plain, rows = chainrule.load(), []
    for name, method in METHODS.items():
        model, passes = count_passes(plain)
        loss = Counted(Classifier(load_classifier(), WANTED))
        task = Task(model, model.denoiser(PROMPT), (0,), loss, energy=load_noise_aware(WANTED))
        work = partial(shorten(method) if arguments.toy else method, task)
        seconds = measure_seconds(work)
        pairs = passes.forward // 2, passes.backward // 2
        rows.append([name, *pairs, loss.images, f"{seconds:.1f}"])
    text = [
        "## What guidance costs",
        f"`python benchmarks/costs.py` on {machine()}. One image, {STEPS} steps; network calls are "
        "on one guidance pair; a crop counts as an image of the loss.",
        table(["method", "network forwards", "network backwards", "images judged", "s"], rows),
    ]
    publish("costs", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
