"""DiffusionCLIP: Kim, Kwon & Ye, "Text-Guided Diffusion Models for Robust Image Manipulation"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.time_grids import last_steps
from chainrule.errors import UserError
from chainrule.methods.base import Steps, Task, Writer
from chainrule.methods.change import TERMS, Changing
from chainrule.methods.training import Training
from chainrule.methods.tuning import Rank
from chainrule.models import trained
from chainrule.models.trained import Part
from chainrule.optimise import Adam


class DiffusionCLIP(Changing):
    """Tunes the network until pictures that are inverted and drawn again show what a text says.

        x_t0 = the picture, inverted by DDIM to t_0         x' = x_t0, drawn by DDIM
        L = w (1 - cos(E_I(x') - E_I(x), E_T(target) - E_T(source))) + |x' - x| + L_id     eq. 7, 8

    Kim, Kwon & Ye, "DiffusionCLIP", 2022. The pictures are inverted once, in S_for steps, under
    `told`, and drawn in S_gen of them. With `through=chain` the exact gradient goes through all of
    the chain and there is an update for each batch: the paper's quick fine-tuning. With `step` each
    step of the chain judges the picture it predicts and updates at once; no gradient goes from step
    to step: the paper's GPU-efficient fine-tuning. Defaults are those of the public code, which
    takes -log(1 - L/2) of the direction and raises the rate by 1.3 after each epoch; here both are
    plain. L_id is what `features` see instead of a network of faces, and images are compared with
    what the autoencoder makes of the pictures. All weights are tuned, or a LoRA (Hu et al. 2022).
    `diffusion-clip-edit` edits photos with what was learnt, and mixes several.

    Limits: what CLIP cannot tell apart is not changed, or is changed too; one change a training.
    """

    kind: Literal["diffusion-clip"] = "diffusion-clip"
    rank: Rank = None
    start: float = Field(default=0.5, gt=0, le=1, description="The share of the chain until t_0.")
    steps: Steps = 6
    inversion_steps: int = Field(
        default=80, ge=1, description="Of a whole chain in which pictures are inverted and shown."
    )
    iterations: int = Field(default=250, ge=1, description="How many batches are drawn.")
    optimiser: Adam = Adam(rate=8e-6, beta2=0.999)
    bundled_world: ClassVar[Mapping[str, Any]] = {
        "inversion_steps": 20,
        "start": 0.8,
        "steps": 6,
        "iterations": 120,
        "batch": 4,
        "optimiser": Adam(rate=1e-4, beta2=0.999),
    }

    @property
    def part(self) -> Part:
        """What is tuned."""
        return Part(self.rank, "attention")

    def count_steps(self, given: Mapping[str, Tensor]) -> int:
        return self.steps

    def count_iterations(self, task: Any) -> int:
        return self.iterations * (self.steps if self.through == "step" else 1)

    def probe(self, steps: int) -> DiffusionCLIP:
        whole = {"steps": steps, "inversion_steps": steps, "start": 1.0, "iterations": 1}
        return self.model_copy(update=whole)

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if self.steps > (most := len(self.times(task, fine=True)) - 1):
            raise UserError(
                f"{self.steps} steps do not fit in the {most} of the inversion until t_0",
                "choose fewer, or more steps of the inversion (inversion_steps)",
                "steps",
            )
        return prepared

    def times(self, task: Task, *, fine: bool = False) -> Tensor:
        """The times from t_0 to the picture: of the inversion, or as many of them as are tuned."""
        every = last_steps(task.model.schedule.times(self.inversion_steps), self.start)
        chosen = torch.linspace(0, len(every) - 1, self.steps + 1, dtype=torch.float64)
        return every if fine else every[chosen.round().long()]

    def begin(self, task: Task, given: Mapping[str, Tensor] | None = None) -> Training:
        given = self.gather(task) if given is None else given
        with trained.train(task.model, self.part) as weights:
            return Training.begin(weights, TERMS, self.optimiser, **given)

    @contextmanager
    def learn(self, task: Task, state: Training) -> Iterator[tuple[Mapping[str, Tensor], Denoiser]]:
        with trained.train(task.model, self.part) as weights:
            yield weights, self.tell(task)

    @contextmanager
    def use(self, task: Task, state: Training | None) -> Iterator[Denoiser]:
        values = {} if state is None else state.values  # untuned also while it is being tuned
        with trained.use(task.model, self.part, values):
            yield self.tell(task)

    def take_step(
        self, told: Denoiser, x: Tensor, t: float, s: float, last: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        x0, eps = told(x, t)
        after = told.schedule.mix(x0, eps, s)
        return (after if last else x0), None, after

    def artefacts(self, task: Task, state: Training) -> Mapping[str, Writer]:
        """A LoRA as diffusers' `load_lora_weights` reads it, or the folder of a whole pipeline."""
        name = "pipeline" if self.rank is None else "pytorch_lora_weights.safetensors"
        write = partial(trained.save, model=task.model, part=self.part, values=state.values)
        return {name: write}
