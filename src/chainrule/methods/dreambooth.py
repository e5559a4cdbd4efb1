"""DreamBooth: Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models", 2023."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.matching import matching_loss
from chainrule.methods.base import Method, Needs, Sheet, Situation, State, Steps, Task, Writer
from chainrule.methods.thing import (
    draw_batch,
    draw_latents,
    draw_prompts,
    encode_pictures,
    name_thing,
    require_name,
    show,
)
from chainrule.methods.training import Training, train
from chainrule.models import trained
from chainrule.models.trained import Part
from chainrule.optimise import Adam


class DreamBooth(Method):
    """Tunes the network until a rare word and a class word name the thing in a few pictures.

        L = E |eps - eps_theta(x_t, t, "a [V] dog")|^2
            + lambda E |eps' - eps_theta(x'_t', t', "a dog")|^2        eq. 3

    Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven
    Generation", 2023. The x' of the second part are images that the model itself drew of the class:
    without it, every dog becomes this dog. All weights are tuned, or a LoRA (Hu et al. 2022). Each
    prompt has `{}` where the thing is.

    Limits: it learns the pictures' backgrounds too, where all are alike.
    """

    kind: Literal["dreambooth"] = "dreambooth"
    needs = Needs.NOISE | Needs.PICTURES | Needs.PROMPT | Needs.PROMPTS
    state: ClassVar[type[State]] = Training
    trains: ClassVar[bool] = True
    differentiates: ClassVar[bool] = False  # a chain
    token: str = Field(default="sks", description="The rare word, [V].")
    noun: str = Field(default="thing", description="What kind of thing it is, in a word: dog.")
    rank: int | None = Field(default=None, ge=1, description="Of a LoRA; none: all weights.")
    text_encoder: bool = Field(default=False, description="Whether text encoders are tuned too.")
    prior: float = Field(default=1.0, ge=0, description="The weight of the class, lambda.")
    prior_images: int = Field(default=200, ge=1, description="How many are drawn of the class.")
    iterations: int = Field(default=1000, ge=1, description="How often the weights are improved.")
    batch: int = Field(default=1, ge=1, description="Pictures at a time, and as many of the class.")
    optimiser: Adam = Adam(rate=5e-6, beta2=0.999, decay=0.01)
    steps: Steps = 50
    guidance_scale: float | None = Field(
        default=None, description="Of the images that are drawn; the model's own."
    )

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """In the bundled world: its own word for a thing, and fewer iterations."""
        return {} if situation.name == "faithful" else BUNDLED_WORLD

    @property
    def part(self) -> Part:
        """What is tuned."""
        return Part(self.rank, "attention", self.text_encoder)

    @property
    def name(self) -> str:
        """What the thing is called, after an article."""
        return f"{self.token} {self.noun}"

    def count_iterations(self, task: Any) -> int:
        return self.iterations

    def probe(self, steps: int) -> DreamBooth:
        return self.model_copy(update={"steps": steps, "iterations": 1, "prior_images": 1})

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        require_name(prepared.prompts)
        model = prepared.model
        return replace(prepared, model=replace(model, text=model.text.knowing(self.token)))

    def run(
        self, task: Task, state: Training | None = None, on_step: OnStep | None = None
    ) -> Iterator[Training]:
        state = self.start(task, self.gather(task)) if state is None else state
        given = state.given
        with trained.train(task.model, self.part) as weights:

            def objective(k: int) -> Iterator[Tensor]:
                nothing = torch.zeros((), device=task.model.device)
                for off in self.match(task, given, k):
                    yield torch.stack([off, nothing])
                for off in self.match(task, given, k, prior=True) if self.prior else ():
                    yield torch.stack([nothing, self.prior * off])

            yield from train(weights, objective, self.optimiser, self.iterations, state, every=20)

    def start(self, task: Task, given: Mapping[str, Tensor]) -> Training:
        """The state before the first iteration.

        Args:
            task: What is tuned.
            given: The latents of the thing, and of its class.
        """
        with trained.train(task.model, self.part) as weights:
            return Training.begin(weights, 2, **given)

    def require_own(self, task: Task, state: Training) -> None:
        counts = {"thing": len(task.pictures)} | (
            {"class": self.prior_images} if self.prior else {}
        )
        shape = task.model.codec.latent_shape
        given = {name: torch.zeros(count, *shape) for name, count in counts.items()}
        state.require_like(self.start(task, given), self.iterations)

    def match(
        self, task: Task, given: Mapping[str, Tensor], k: int, *, prior: bool = False
    ) -> Iterator[Tensor]:
        """A half of the loss in iteration `k`, of the thing or of its class, in parts."""
        x_0, what = (given["class"], self.noun) if prior else (given["thing"], self.name)
        batch = draw_batch(f"dreambooth/{prior}", k, x_0, self.batch, task.model)
        for b in batch.split(task.plan.batch_size):
            told = task.model.denoiser(f"a {what}", guidance_scale=1.0)
            yield matching_loss(told, x_0[b.rows], b.eps, b.times).sum() / self.batch

    @torch.no_grad()
    def gather(self, task: Task) -> dict[str, Tensor]:
        """The latents of the pictures, and of what the model drew of their class before."""
        given = {"thing": encode_pictures(task)}
        if self.prior:
            seeds = range(self.prior_images)
            drawing = (seeds, self.steps, self.guidance_scale)
            given["class"] = draw_latents(task, f"a {self.noun}", *drawing)
        return given

    @torch.no_grad()
    def result(self, task: Task, state: Training) -> Sheet:
        prompts = name_thing(task.prompts, self.name)
        images = self.draw(task, state, prompts)
        return show(task, prompts, images, self.name, state.numbers)

    def draw(self, task: Task, state: Training, prompts: Sequence[str]) -> Tensor:
        """The images (P, B, 3, H, W) of prompts by the tuned network."""
        with trained.use(task.model, self.part, state.values):
            return draw_prompts(task, prompts, self.steps, self.guidance_scale)

    def artefacts(self, task: Task, state: Training) -> Mapping[str, Writer]:
        """A LoRA as diffusers' `load_lora_weights` reads it, or the folder of a whole pipeline."""
        name = "pipeline" if self.rank is None else "pytorch_lora_weights.safetensors"
        write = partial(trained.save, model=task.model, part=self.part, values=state.values)
        return {name: write}


BUNDLED_WORLD: dict[str, Any] = {
    "noun": "shape",
    "iterations": 400,
    "batch": 4,
    "steps": 20,
    "optimiser": Adam(rate=1e-4, beta2=0.999, decay=0.01),
}
