"""Imagic: Kawar et al., "Imagic: Text-Based Real Image Editing with Diffusion Models", 2023."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.matching import matching_loss
from chainrule.errors import UserError
from chainrule.images import contact_sheet
from chainrule.methods.base import (
    Drawn,
    Method,
    Needs,
    Result,
    Situation,
    State,
    Steps,
    Task,
    Writer,
)
from chainrule.methods.chains import generate, warn_if_unchanged
from chainrule.methods.chunking import decode, finish
from chainrule.methods.one_photo import encode_photo, read_told, require_one_photo, retell
from chainrule.methods.thing import draw_batch
from chainrule.methods.training import Training, train
from chainrule.models import trained
from chainrule.models.trained import Part
from chainrule.optimise import Adam

EMBEDDING = "embedding "
"""How the names of the embedding's tensors begin; all others are weights."""
ETAS = tuple(k / 10 for k in range(11))
"""What the grid shows."""


class Imagic(Method):
    """Learns what to call a photo and how to draw it, and goes from there towards the prompt.

        e_opt = argmin_e E |eps - eps_theta(x_t, t, e)|^2,  from e_tgt     (A) eq. 3
        theta = argmin   E |eps - eps_theta(x_t, t, e_opt)|^2              (B) eq. 3
        e = eta e_tgt + (1 - eta) e_opt,  drawn from noise                 (C) eq. 4

    Kawar et al., "Imagic: Text-Based Real Image Editing with Diffusion Models", 2023. e_tgt is the
    prompt's embedding; at eta 0 the photo comes back, at 1 the tuned network draws the prompt. All
    weights are tuned, or a LoRA (Hu et al. 2022). The defaults are what the paper reports for
    Stable Diffusion (1000 and 1500 iterations), as far as known here; the community pipeline of
    diffusers takes 500 at 1e-3 and 1000 at 2e-6. The paper chooses eta by eye, mostly between 0.6
    and 0.8: `etas.png` shows the first seed at all. It also tunes Imagen's upsamplers, which
    latent diffusion does not have.

    Limits: one training for each photo and prompt; the right eta differs from edit to edit; too
    much of phase A leaves nothing between photo and prompt.
    """

    kind: Literal["imagic"] = "imagic"
    needs = Needs.PHOTO | Needs.PROMPT
    state: ClassVar[type[State]] = Training
    to_change_more: ClassVar[str] = "raise its eta"
    eta: float = Field(default=0.7, ge=0, description="From the photo (0) to the prompt (1).")
    rank: int | None = Field(default=None, ge=1, description="Of a LoRA; none: all weights.")
    embedding_iterations: int = Field(
        default=1000, ge=0, description="How often the embedding is improved, in phase A."
    )
    iterations: int = Field(
        default=1500, ge=0, description="How often the weights are improved, in phase B."
    )
    batch: int = Field(default=1, ge=1, description="How many noises and times at once.")
    embedding_optimiser: Adam = Adam(rate=2e-3, beta2=0.999)
    optimiser: Adam = Adam(rate=5e-7, beta2=0.999)
    steps: Steps = 50

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """In the bundled world: larger steps, fewer of them, and all of the prompt's meaning."""
        return {} if situation.name == "faithful" else BUNDLED_WORLD

    @property
    def part(self) -> Part:
        """What is tuned."""
        return Part(self.rank, "attention")

    def count_iterations(self, task: Any) -> int:
        return self.embedding_iterations + self.iterations

    def probe(self, steps: int) -> Imagic:
        return self.model_copy(update={"steps": steps, "embedding_iterations": 0, "iterations": 1})

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        require_one_photo(prepared, self.kind)
        if len(set(prepared.prompts)) > 1:
            raise UserError(
                f"{self.kind} learns one photo for one prompt, and these differ",
                "give one prompt",
                "prompt",
            )
        if not any(value.is_floating_point() for value in read_told(prepared)):
            raise UserError(
                f"{self.kind} changes what a prompt means, and this model knows classes only",
                "choose a model that draws from text",
                "model",
            )
        return prepared

    def start(self, task: Task) -> Training:
        """The state before phase A: what is learnt begins as the prompt's embedding."""
        told = enumerate(read_told(task))
        target = {f"{EMBEDDING}{i}": e.float() for i, e in told if e.is_floating_point()}
        return Training.begin(target, 1, photo=encode_photo(task))

    def require_own(self, task: Task, state: Training) -> None:
        own = self.start(task)
        if state.iteration > self.embedding_iterations:
            with trained.train(task.model, self.part) as weights:
                own = _join(own, Training.begin(weights, 1))
        state.require_like(own, self.count_iterations(task))

    def run(
        self, task: Task, state: Training | None = None, on_step: OnStep | None = None
    ) -> Iterator[Training]:
        state = self.start(task) if state is None else state
        if not self.count_iterations(task):
            yield state
        told, photo, count = read_told(task), state.given["photo"], self.embedding_iterations
        e = {
            name: value.clone().requires_grad_()
            for name, value in _values(state, weights=False).items()
        }
        match = partial(self.match, task, photo)
        find = partial(match, told, e, "embedding")
        for found in train(e, find, self.embedding_optimiser, count, state, every=20):
            yield (state := found)  # of phase A
        if not self.iterations:
            return
        with trained.train(task.model, self.part) as weights:
            learnt, begun = _split(state, count, Training.begin(weights, 1))
            tune = partial(match, told, learnt.values, "weights")
            for tuned in train(weights, tune, self.optimiser, self.iterations, begun, every=20):
                yield _join(learnt, tuned)  # of phase B

    def match(
        self,
        task: Task,
        photo: Tensor,
        told: Conditioning,
        e: Mapping[str, Tensor],
        phase: str,
        k: int,
    ) -> Tensor:
        """The loss (1,) of iteration `k` of a phase (eq. 3)."""
        b = draw_batch(f"imagic/{phase}", k, photo, self.batch, task.model)
        asked = task.model.denoiser(mix(told, e, 0.0), guidance_scale=1.0)
        return matching_loss(asked, photo[b.rows], b.eps, b.times).mean()[None]

    @torch.no_grad()
    def result(self, task: Task, state: Training) -> Result:
        found = finish(task, self.draw(task, state, self.eta))
        if self.eta:
            warn_if_unchanged(self, task, found)
        return found

    def draw(self, task: Task, state: Training, eta: float) -> Drawn:
        """The images between the photo (0) and the prompt (1), guided as the task is."""
        told = retell(task.model, task.denoiser, mix(read_told(task), state.values, eta))
        weights = _values(state, weights=True)
        tuned: AbstractContextManager[None] = nullcontext()
        if weights:
            tuned = trained.use(task.model, self.part, weights)
        with tuned:
            return generate(task, task.x_T, self.steps, denoiser=told)

    def artefacts(self, task: Task, state: Training) -> Mapping[str, Writer]:
        """A grid from the photo to the prompt, of the first seed."""

        @torch.no_grad()
        def write(path: Path) -> None:
            first = task.select([0])
            columns = {"the photo": first.require_photo().images}
            for eta in ETAS:
                drawn = self.draw(first, state, eta)
                columns[f"eta {eta:g}"] = decode(first, drawn.latents)
            title = f"{task.prompts[0]}, seed {task.seeds[0]}"
            contact_sheet(columns, [""], {name: [""] for name in columns}, title).save(path)

        return {"etas.png": write}


def mix(told: Conditioning, learnt: Mapping[str, Tensor], eta: float) -> Conditioning:
    """The embedding eta e_tgt + (1 - eta) e_opt (eq. 4), exact at 0 and at 1.

    Args:
        told: What the prompt is to the network, of which not all is learnt.
        learnt: What was learnt in its place, by name.
        eta: From what was learnt (0) to the prompt (1).
    """
    named = {f"{EMBEDDING}{i}": target for i, target in enumerate(told)}
    return tuple(
        learnt[name].lerp(target.float(), eta) if name in learnt else target
        for name, target in named.items()
    )


def _values(state: Training, *, weights: bool) -> dict[str, Tensor]:
    """What of a state is weights, or the embedding."""
    named = state.values.items()
    return {name: value for name, value in named if name.startswith(EMBEDDING) != weights}


def _split(state: Training, count: int, begun: Training) -> tuple[Training, Training]:
    """The `count` iterations of phase A, and the training of phase B, which may be yet to begin."""
    parts = []
    for weights, losses in ((False, state.losses[:count]), (True, state.losses[count:])):
        values = _values(state, weights=weights)
        memory = {name: state.memory[name] for name in values}
        parts.append(Training(values, memory, losses, given=state.given))
    learnt, tuned = parts
    return learnt, tuned if tuned.values else begun


def _join(learnt: Training, tuned: Training) -> Training:
    """A state of both phases, of which each counts its own iterations."""
    return replace(
        learnt,
        values={**learnt.values, **tuned.values},
        memory={**learnt.memory, **tuned.memory},
        losses=torch.cat([learnt.losses, tuned.losses]),
    )


BUNDLED_WORLD: dict[str, Any] = {
    "eta": 1.0,
    "embedding_iterations": 200,
    "iterations": 300,
    "batch": 4,
    "embedding_optimiser": Adam(rate=2e-3, beta2=0.999),
    "optimiser": Adam(rate=1e-4, beta2=0.999),
    "steps": 20,
}
