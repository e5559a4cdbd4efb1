"""UniTune: Valevski et al., "UniTune: Text-Driven Image Editing by Fine Tuning a Diffusion Model on
a Single Image", 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.matching import matching_loss
from chainrule.methods.base import (
    Drawn,
    Eta,
    Method,
    Needs,
    Result,
    Situation,
    State,
    Steps,
    Strength,
    Task,
)
from chainrule.methods.chains import warn_if_unchanged
from chainrule.methods.chunking import decode, evaluate
from chainrule.methods.one_photo import encode_photo, require_one_photo, retell
from chainrule.methods.sdedit import SDEdit
from chainrule.methods.thing import draw_batch
from chainrule.methods.training import Training, train
from chainrule.models import trained
from chainrule.models.base import Text
from chainrule.models.trained import Part
from chainrule.optimise import Adam


class UniTune(Method):
    """Tunes the network until a rare word is the photo, and draws that word and the prompt.

        theta = argmin E |eps - eps_theta(x_t, t, "[V]")|^2          a few iterations
        x = SDEdit of the photo, told "[V] prompt", guided
        image = (1 - share) x + share photo                          in pixels

    Valevski et al., "UniTune: Text-Driven Image Editing by Fine Tuning a Diffusion Model on a
    Single Image", 2023. The prompt has its say by strong guidance, which is the run's; the photo by
    the tuned weights, by where the drawing begins, and at the end by its pixels. The paper's
    numbers are Imagen's: 128 iterations are its order of size, rate and strength are ours for
    Stable Diffusion. It interpolates the details that matter, this all pixels alike.

    Limits: the composition of the photo stays; iterations, guidance and strength are to be weighed
    against each other from photo to photo.
    """

    kind: Literal["unitune"] = "unitune"
    needs = Needs.PHOTO | Needs.PROMPT
    state: ClassVar[type[State]] = Training
    to_change_more: ClassVar[str] = "raise its strength or the guidance scale"
    token: str = Field(default="beikkpic", description="The rare word, [V], or several; or none.")
    rank: int | None = Field(default=None, ge=1, description="Of a LoRA; none: all weights.")
    iterations: int = Field(default=128, ge=0, description="How often the weights are improved.")
    batch: int = Field(default=4, ge=1, description="How many noises and times at once.")
    optimiser: Adam = Adam(rate=1e-5, beta2=0.999, decay=0.01)
    strength: Strength = 0.9
    share: float = Field(default=0.0, ge=0, le=1, description="Of the photo in each pixel.")
    eta: Eta = 1.0
    steps: Steps = 50

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """In the bundled world: its text encoder reads a rare word as letters, and bears one."""
        return {} if situation.name == "faithful" else BUNDLED_WORLD

    @property
    def part(self) -> Part:
        """What is tuned."""
        return Part(self.rank, "attention")

    def count_iterations(self, task: Any) -> int:
        return self.iterations

    def probe(self, steps: int) -> UniTune:
        return self.model_copy(update={"steps": steps, "iterations": 1, "strength": 1.0})

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        require_one_photo(prepared, self.kind)
        self.tell(prepared)  # a prompt that gets too long is refused now
        return prepared

    def read(self, task: Task) -> Text:
        """The text encoder, which has nothing to say against the rare word."""
        return task.model.text.knowing(self.token)

    def tell(self, task: Task) -> Denoiser:
        """The task's denoiser, told the rare word before the prompt."""
        if not self.token:
            return task.denoiser
        prompts = [f"{self.token} {prompt}" for prompt in task.prompts]
        return retell(task.model, task.denoiser, self.read(task)(prompts))

    def start(self, task: Task) -> Training:
        """The state before the first iteration."""
        with trained.train(task.model, self.part) as weights:
            return Training.begin(weights, 1, photo=encode_photo(task))

    def require_own(self, task: Task, state: Training) -> None:
        state.require_like(self.start(task), self.iterations)

    def run(
        self, task: Task, state: Training | None = None, on_step: OnStep | None = None
    ) -> Iterator[Training]:
        state = self.start(task) if state is None else state
        if not self.iterations:
            yield state
        photo, said = state.given["photo"], self.read(task)([self.token])

        def objective(k: int) -> Tensor:
            b = draw_batch(self.kind, k, photo, self.batch, task.model)
            told = task.model.denoiser(said, guidance_scale=1.0)
            return matching_loss(told, photo[b.rows], b.eps, b.times).mean()[None]

        with trained.train(task.model, self.part) as weights:
            yield from train(weights, objective, self.optimiser, self.iterations, state, every=16)

    @torch.no_grad()
    def result(self, task: Task, state: Training) -> Result:
        drawn = self.draw(task, state)
        images = decode(task, drawn.latents).lerp(task.require_photo().images, self.share)
        losses = None if task.loss is None else evaluate(task, images)
        found = Result(images, drawn.latents, drawn.x_T, losses)
        if self.share < 1:
            warn_if_unchanged(self, task, found)
        return found

    def draw(self, task: Task, state: Training) -> Drawn:
        """The photo, hidden under noise and drawn again by the tuned network."""
        edit = SDEdit(strength=self.strength, eta=self.eta, steps=self.steps)
        with trained.use(task.model, self.part, state.values):
            return edit.draw(replace(task, denoiser=self.tell(task)))


BUNDLED_WORLD: dict[str, Any] = {
    "token": "x",
    "iterations": 32,
    "optimiser": Adam(rate=1e-4, beta2=0.999, decay=0.01),
    "strength": 0.7,
    "steps": 20,
}
