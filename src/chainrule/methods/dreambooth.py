"""DreamBooth: Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models", 2023."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.matching import matching_loss
from chainrule.methods.base import Method, Needs, Sheet, Situation, Steps, Task
from chainrule.methods.thing import (
    draw_batch,
    draw_latents,
    draw_prompts,
    encode_pictures,
    name_thing,
    require_name,
    show,
)
from chainrule.methods.training import Training
from chainrule.methods.tuning import Objective, OwnScale, Rank, Tuning, outline_latents
from chainrule.models import trained
from chainrule.models.trained import Part
from chainrule.optimise import Adam


class DreamBooth(Tuning):
    """Tunes the network until a rare word and a class word name the thing in a few pictures.

        L = E |eps - eps_theta(x_t, t, "a [V] dog")|^2
            + lambda E |eps' - eps_theta(x'_t', t', "a dog")|^2        eq. 3

    Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven
    Generation", 2023. The x' of the second part are images that the model itself drew of the class:
    without it, every dog becomes this dog. All weights are tuned, or a LoRA (Hu et al. 2022), and
    with `text_encoder` those of the text encoders too (a LoRA on CLIPs only: diffusers reads none
    on a T5). Each prompt has `{}` where the thing is.

    Limits: it learns the pictures' backgrounds too, where all are alike.
    """

    kind: Literal["dreambooth"] = "dreambooth"
    needs = Needs.NOISE | Needs.PICTURES | Needs.PROMPT | Needs.PROMPTS
    differentiates: ClassVar[bool] = False  # a chain
    token: str = Field(default="sks", description="The rare word, [V].")
    noun: str = Field(default="thing", description="What kind of thing it is, in a word: dog.")
    rank: Rank = None
    text_encoder: bool = Field(default=False, description="Whether text encoders are tuned too.")
    prior: float = Field(default=1.0, ge=0, description="The weight of the class, lambda.")
    prior_images: int = Field(default=200, ge=1, description="How many are drawn of the class.")
    iterations: int = Field(default=1000, ge=1, description="How often the weights are improved.")
    batch: int = Field(default=1, ge=1, description="Pictures at a time, and as many of the class.")
    optimiser: Adam | None = Field(
        default=None, description="How the weights move; none: Adam at 5e-6, a LoRA at 1e-4."
    )
    steps: Steps = 50
    guidance_scale: OwnScale = None
    bundled_world: ClassVar[Mapping[str, Any]] = {
        "iterations": 400,
        "batch": 4,
        "steps": 20,
        "optimiser": Adam(rate=2e-4, beta2=0.999),
        "prior_images": 64,
    }

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        found = super().preset(situation)
        low = {"iterations": 200, "optimiser": Adam(rate=3e-3, beta2=0.999)}
        noun = {"noun": situation.noun} if found and situation.noun else {}
        return found | noun | (low if found and situation.low_rank else {})

    @property
    def part(self) -> Part:
        """What is tuned."""
        return Part(self.rank, "attention", self.text_encoder)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """What of an optimiser is not said is as it would be without one: not another's rate."""
        said = values.get("optimiser") if isinstance(values, dict) else None
        if not isinstance(said, dict):
            return values
        return {**values, "optimiser": {**own_optimiser(values.get("rank")), **said}}

    @property
    def moved_by(self) -> Adam:
        return self.optimiser or Adam(**own_optimiser(self.rank))

    @property
    def name(self) -> str:
        """What the thing is called, after an article."""
        return f"{self.token} {self.noun}"

    def probe(self, steps: int) -> Method:
        return super().probe(steps).model_copy(update={"prior_images": 1})

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        require_name(prepared.prompts)
        model = prepared.model
        known = getattr(model.text, "known", ())
        # what it was taught since is known too
        heard = {word.lower() for word in (*known, *getattr(model.text, "words", ()))}
        if known and not heard.issuperset(self.noun.lower().split()):
            warnings.warn(
                f"the model does not know the class word {self.noun!r}: say what kind of thing it "
                "is in a word that it knows (noun)",
                stacklevel=2,
            )
        text = model.text.knowing(f"{self.token} {self.noun}")
        return replace(prepared, model=replace(model, text=text))

    def count_terms(self, task: Task) -> int:
        return 2

    def objective(
        self, task: Task, given: Mapping[str, Tensor], on_step: OnStep | None = None
    ) -> Objective:
        nothing = torch.zeros((), device=task.model.device)

        def tell(what: str) -> Denoiser:
            return task.model.denoiser(f"a {what}", guidance_scale=1.0)

        ask = tell if self.text_encoder else cache(tell)

        def match(k: int, prior: bool) -> Iterator[Tensor]:
            """A half of the loss, of the thing or of its class, in parts."""
            x_0, what = (given["class"], self.noun) if prior else (given["thing"], self.name)
            batch = draw_batch(f"dreambooth/{prior}", k, x_0, self.batch, task.model)
            for b in batch.split(task.plan.batch_size):
                yield matching_loss(ask(what), x_0[b.rows], b.eps, b.times).sum() / self.batch

        def lose(k: int) -> Iterator[Tensor]:
            yield from (torch.stack([off, nothing]) for off in match(k, prior=False))
            if self.prior:
                yield from (
                    torch.stack([nothing, self.prior * off]) for off in match(k, prior=True)
                )

        return lose

    @torch.no_grad()
    def gather(self, task: Task) -> dict[str, Tensor]:
        """The latents of the pictures, and of what the model drew of their class before."""
        given = {"thing": encode_pictures(task)}
        if self.prior:
            seeds = range(self.prior_images)
            drawing = (seeds, self.steps, self.guidance_scale)
            given["class"] = draw_latents(task, f"a {self.noun}", *drawing)
        return given

    def outline(self, task: Task) -> Mapping[str, Tensor]:
        given = {"thing": outline_latents(task, len(task.pictures))}
        return given | ({"class": outline_latents(task, self.prior_images)} if self.prior else {})

    @torch.no_grad()
    def result(self, task: Task, state: Training) -> Sheet:
        prompts = name_thing(task.prompts, self.name)
        images = self.draw(task, state, prompts)
        return show(task, prompts, images, self.name, state.numbers)

    def draw(self, task: Task, state: Training, prompts: Sequence[str]) -> Tensor:
        """The images (P, B, 3, H, W) of prompts by the tuned network."""
        with trained.use(task.model, self.part, state.values):
            return draw_prompts(task, prompts, self.steps, self.guidance_scale)


def own_optimiser(rank: Any) -> dict[str, Any]:
    """The settings of Adam for all weights (rank None), or for a LoRA.

    Args:
        rank: Of the LoRA.
    """
    return {"kind": "adam", "rate": 5e-6 if rank is None else 1e-4, "beta2": 0.999, "decay": 0.01}
