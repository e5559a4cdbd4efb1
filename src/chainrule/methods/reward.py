"""Reward tuning: DRaFT (Clark et al. 2024), AlignProp (Prabhudesai et al. 2023), and exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient import Truncated
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import sample
from chainrule.images import shorten
from chainrule.losses.base import check_finite, check_terms
from chainrule.methods.base import Method, Needs, Sheet, Steps, Task
from chainrule.methods.thing import AT_ONCE, CHANCE, draw_prompts
from chainrule.methods.training import Training
from chainrule.methods.tuning import Objective, OwnScale, Tuning
from chainrule.models import trained
from chainrule.optimise import Adam

Through = Literal["chain", "last", "random"]


class RewardTuning(Tuning):
    """Tunes a LoRA until what the network draws of some prompts has less of a loss.

        min  E over (prompt, x_T)  L(x_0(x_T, prompt; theta))

    Clark et al., "Directly Fine-Tuning Diffusion Models on Differentiable Rewards" (DRaFT), 2024,
    follow the gradient through the last K steps of the chain (`through=last`); Prabhudesai et al.,
    "Aligning Text-to-Image Diffusion Models with Reward Backpropagation" (AlignProp), 2023, through
    the last K, drawn anew in each iteration (`random`). Here it also goes through all of them,
    exactly, at constant memory (`chain`). Each iteration has new noise; the loss of other noise,
    and of other prompts, is reported before and after.

    Limits: a network that judges can be deceived, and with it what is drawn loses its variety.
    """

    kind: Literal["reward"] = "reward"
    needs = Needs.NOISE | Needs.PROMPT | Needs.PROMPTS | Needs.LOSS
    every: ClassVar[int] = 5
    through: Through = Field(
        default="chain", description="Which steps the gradient goes through: chain, last, random."
    )
    last: int = Field(default=1, ge=1, description="Of `last` how many steps, K.")
    rank: int = Field(default=16, ge=1, description="The rank of the LoRA.")
    other: tuple[str, ...] = Field(default=(), description="Prompts on which it is tried only.")
    iterations: int = Field(default=2000, ge=1, description="How often the weights are improved.")
    batch: int = Field(default=4, ge=1, description="How many images are drawn at a time.")
    optimiser: Adam = Adam(rate=4e-4, beta2=0.999, decay=0.1)
    steps: Steps = 50
    guidance_scale: OwnScale = None
    bundled_world: ClassVar[Mapping[str, Any]] = {
        "rank": 8,
        "iterations": 60,
        "steps": 10,
        "optimiser": Adam(rate=2e-3, beta2=0.999),
    }

    @property
    def truncated(self) -> int | None:
        return self.last if self.through == "last" else None

    def probe(self, steps: int) -> Method:
        return super().probe(steps).model_copy(update={"through": "chain"})

    def count_terms(self, task: Task) -> int:
        return len(task.require_loss().names)

    def objective(
        self, task: Task, given: Mapping[str, Tensor], on_step: OnStep | None = None
    ) -> Objective:
        size, loss = task.plan.decoded_at_once or self.batch, task.require_loss()

        def lose(k: int) -> Iterator[Tensor]:
            numbers = range(k * self.batch, (k + 1) * self.batch)
            for first in numbers[::size]:
                part = [i for i in numbers if first <= i < first + size]
                images = task.model.decode(self.draw(task, k, part, on_step))
                terms = check_terms(loss, images)
                check_finite(terms, loss.names, [f"image {i}" for i in part])
                yield terms.sum(dim=1) / self.batch

        return lose

    def draw(
        self, task: Task, k: int, numbers: Sequence[int], on_step: OnStep | None = None
    ) -> Tensor:
        """Latents (N, C, h, w) of iteration `k`, differentiable through the steps that count.

        Args:
            task: What is drawn.
            k: The iteration.
            numbers: Which of all images of the training.
            on_step: Told after each step.
        """
        model, noise = task.model, CHANCE.stream("reward/x_T")
        prompts = [task.prompts[i % len(task.prompts)] for i in numbers]
        x_T = torch.cat([noise.normal(i, model.codec.latent_shape) for i in numbers])
        denoiser = model.denoiser(prompts, guidance_scale=self.guidance_scale)
        times = model.schedule.times(self.steps)
        gradient = Truncated(self.count_steps(k), task.plan.keep)
        return sample(denoiser, x_T.to(model.device), times, gradient=gradient, on_step=on_step)

    def count_steps(self, k: int) -> int:
        """Through how many of the last steps the gradient goes in iteration `k`."""
        if self.through == "random":
            (chance,) = CHANCE.stream("reward/steps").generators(k)
            return int(torch.randint(1, self.steps + 1, (), generator=chance))
        return self.steps if self.through == "chain" else min(self.last, self.steps)

    @torch.no_grad()
    def result(self, task: Task, state: Training) -> Sheet:
        """The prompts, and others, from noise that it was not tuned on, before and after."""
        prompts, loss = [*task.prompts[:3], *self.other], task.require_loss()
        with trained.use(task.model, self.part, {}):
            before = self.show(task, prompts)
        with trained.use(task.model, self.part, state.values):
            after = self.show(task, prompts)
        columns, captions, numbers = {}, {}, {}
        for name, images in (("before", before), ("after", after)):
            each = images.flatten(0, 1).split(task.plan.decoded_at_once or AT_ONCE)
            off = torch.cat([loss(part) for part in each]).unflatten(0, images.shape[:2])
            columns[name], captions[name] = images[:, 0], [f"loss {v:.3f}" for v in off[:, 0]]
            numbers[f"held-out loss {name}"] = off.mean().item()
        return Sheet(columns, [shorten(prompt) for prompt in prompts], captions, "", numbers)

    def show(self, task: Task, prompts: list[str]) -> Tensor:
        """The images (P, B, 3, H, W) of prompts from the run's seeds."""
        return draw_prompts(task, prompts, self.steps, self.guidance_scale)
