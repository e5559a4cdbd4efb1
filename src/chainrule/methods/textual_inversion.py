"""Textual inversion: Gal et al., "An Image is Worth One Word", 2023."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.matching import matching_loss
from chainrule.methods.base import Needs, Sheet, Situation, Steps, Task, Writer
from chainrule.methods.thing import (
    draw_batch,
    draw_prompts,
    encode_pictures,
    name_thing,
    require_name,
    show,
)
from chainrule.methods.training import Training, train
from chainrule.methods.tuning import Learning, OwnScale, outline_latents
from chainrule.models.base import Text
from chainrule.optimise import Adam

VECTORS = "vectors"


class TextualInversion(Learning):
    """Learns a new word from a few pictures of a thing.

        v = argmin  E |eps - eps_theta(x_t, t, c(v))|^2        eq. 2

    Gal et al., "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual
    Inversion", 2023. Only the word's token embeddings are learnt, one or several; they start as an
    ordinary word. Each prompt has `{}` where the thing is.

    Limits: one vector holds less than a picture shows; a good initial word matters.
    """

    kind: Literal["textual-inversion"] = "textual-inversion"
    needs = Needs.NOISE | Needs.PICTURES | Needs.PROMPT | Needs.PROMPTS
    differentiates: ClassVar[bool] = False  # a chain
    word: str = Field(default="<thing>", description="The new word, in angle brackets.")
    initial: str = Field(
        default="", description="The ordinary word that it starts as: dog. Empty: padding."
    )
    vectors: int = Field(default=1, ge=1, description="How many token embeddings it has.")
    templates: tuple[str, ...] = Field(
        default=(
            *("a photo of a {}", "a rendering of a {}", "a cropped photo of the {}"),
            *("the photo of a {}", "a close-up photo of a {}", "a good photo of a {}"),
        ),
        description="What the pictures are said to show, in turn; {} is the word.",
    )
    iterations: int = Field(default=5000, ge=1, description="How often the word is improved.")
    batch: int = Field(default=4, ge=1, description="How many pictures are asked at a time.")
    optimiser: Adam = Adam(rate=0.005, beta2=0.999, decay=0.01)
    steps: Steps = 50
    guidance_scale: OwnScale = None
    bundled_world: ClassVar[Mapping[str, Any]] = {
        "templates": ("a {}",),
        "vectors": 2,
        "iterations": 500,
        "optimiser": Adam(rate=0.02, beta2=0.999),
        "steps": 20,
    }

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        found = super().preset(situation)
        return found | {"initial": situation.noun} if found else found

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        require_name(prepared.prompts)
        require_name(self.templates)
        self.read(prepared, self.first(prepared))(name_thing(prepared.prompts, self.word))
        return prepared

    def first(self, task: Task) -> Tensor:
        """What the word starts as, (n, D)."""
        text = task.model.text
        start = text.word_embedding(self.initial) if self.initial else text.pad_embedding
        return start.float().expand(self.vectors, -1)

    def read(self, task: Task, vectors: Tensor) -> Text:
        """The text encoder that knows the word as `vectors` (n, D)."""
        return task.model.text.with_token(self.word, vectors)

    def run(
        self, task: Task, state: Training | None = None, on_step: OnStep | None = None
    ) -> Iterator[Training]:
        state = self.begin(task) if state is None else state
        vectors, latents = state.values[VECTORS].clone().requires_grad_(), state.given["latents"]
        text, said = self.read(task, vectors), name_thing(self.templates, self.word)

        def objective(k: int) -> Iterator[Tensor]:
            prompts = [said[(k * self.batch + n) % len(said)] for n in range(self.batch)]
            batch = draw_batch(self.kind, k, latents, self.batch, task.model)
            for part in batch.split(task.plan.batch_size):
                own, prompts = prompts[: len(part.rows)], prompts[len(part.rows) :]
                told = task.model.denoiser(text(own), guidance_scale=1.0)
                off = matching_loss(told, latents[part.rows], part.eps, part.times)
                yield off.sum()[None] / self.batch

        parts: Any = ({VECTORS: vectors}, objective, self.optimiser, self.iterations, state)
        return train(*parts, every=10)

    def begin(self, task: Task, given: Mapping[str, Tensor] | None = None) -> Training:
        given = self.gather(task) if given is None else given
        return Training.begin({VECTORS: self.first(task)}, 1, self.optimiser, **given)

    def gather(self, task: Task) -> dict[str, Tensor]:
        return {"latents": encode_pictures(task)}

    def outline(self, task: Task) -> Mapping[str, Tensor]:
        return {"latents": outline_latents(task, len(task.pictures))}

    @torch.no_grad()
    def result(self, task: Task, state: Training) -> Sheet:
        prompts = name_thing(task.prompts, self.word)
        return show(task, prompts, self.draw(task, state, prompts), self.word, state.numbers)

    def draw(self, task: Task, state: Training, prompts: list[str]) -> Tensor:
        """The images (P, B, 3, H, W) of prompts that say the word."""
        text = self.read(task, state.values[VECTORS])
        return draw_prompts(task, prompts, self.steps, self.guidance_scale, text)

    def artefacts(self, task: Task, state: Training) -> Mapping[str, Writer]:
        """The word, as diffusers' `load_textual_inversion`, A1111 and ComfyUI read it."""
        from chainrule.models.embedding_files import save_word

        def write(path: Any) -> None:
            save_word(path, self.word, state.values[VECTORS], task.model.text)

        return {"embedding.safetensors": write}
