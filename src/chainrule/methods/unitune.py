"""UniTune: Valevski et al., "UniTune: Text-Driven Image Editing by Fine Tuning a Diffusion Model on
a Single Image", 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.matching import matching_loss
from chainrule.methods.base import Drawn, Eta, Method, Needs, Result, Steps, Strength, Task
from chainrule.methods.chains import warn_if_unchanged
from chainrule.methods.chunking import decode, evaluate
from chainrule.methods.one_photo import encode_photo, require_one_photo, retell
from chainrule.methods.sdedit import SDEdit
from chainrule.methods.thing import draw_batch
from chainrule.methods.training import Training
from chainrule.methods.tuning import Objective, Rank, Tuning
from chainrule.models import trained
from chainrule.models.base import Text
from chainrule.optimise import Adam


class UniTune(Tuning):
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
    trains: ClassVar[bool] = False  # what it learns is not shown on the way
    every: ClassVar[int] = 16
    to_change_more: ClassVar[str] = "raise its strength or the guidance scale"
    token: str = Field(default="beikkpic", description="The rare word, [V], or several; or none.")
    rank: Rank = None
    iterations: int = Field(default=128, ge=0, description="How often the weights are improved.")
    batch: int = Field(default=4, ge=1, description="How many noises and times at once.")
    optimiser: Adam = Adam(rate=1e-5, beta2=0.999, decay=0.01)
    strength: Strength = 0.9
    share: float = Field(default=0.0, ge=0, le=1, description="Of the photo in each pixel.")
    eta: Eta = 1.0
    steps: Steps = 50
    bundled_world: ClassVar[Mapping[str, Any]] = {  # whose text encoder reads a word as letters
        "token": "x",
        "iterations": 32,
        "optimiser": Adam(rate=1e-4, beta2=0.999, decay=0.01),
        "strength": 0.7,
        "steps": 20,
    }

    artefacts = Method.artefacts  # what was tuned is of use to this photo alone

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

    def gather(self, task: Task) -> dict[str, Tensor]:
        return {"photo": encode_photo(task)}

    def objective(
        self, task: Task, given: Mapping[str, Tensor], on_step: OnStep | None = None
    ) -> Objective:
        photo, said = given["photo"], self.read(task)([self.token])

        def lose(k: int) -> Tensor:
            b = draw_batch(self.kind, k, photo, self.batch, task.model)
            told = task.model.denoiser(said, guidance_scale=1.0)
            return matching_loss(told, photo[b.rows], b.eps, b.times).mean()[None]

        return lose

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
