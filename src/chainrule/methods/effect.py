"""Text-embedding inversion: AdjointDPM (Pan et al. 2024), appendix A. One before/after pair becomes a word.

The noise x_T that leads to the picture before, told what it shows, is found by inversion (DPM-ODESolver++'s own, which is
approximate) and kept. What is optimised is a new word # in the
text encoder's own space, so that the same noise, told "prompt #", leads to the picture after:

    # = argmin |x_0(x_T, prompt #) - after|^2

Nothing else of the pair is in the word, so it can be said of other noise and in other prompts. It starts as the padding
that fills a prompt up, which says nothing: from any other start the first thing to learn would be to be silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning, Denoiser
from chainrule.diffusion.gradient.checkpoint import Checkpoint
from chainrule.models.base import Model
from chainrule.optimise import Adam, Training, train
from chainrule.diffusion.sampling import invert, sample
from chainrule.diffusion.solvers.dpm_solver import DPMSolver

VECTORS = "vectors"


class Effect(BaseModel):
    """The settings: a word of so many `vectors`, learnt in so many `iterations` of a chain of so many `steps`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    vectors: int = Field(default=4, ge=1)
    iterations: int = Field(default=100, ge=1)
    steps: int = Field(default=10, ge=1)
    guidance_scale: float = 1.0
    optimiser: Adam = Adam(rate=0.03)


@dataclass(frozen=True, eq=False)
class Pair:
    """Pictures `before` and `after` the effect (1, 3, H, W) in [0, 1], what they show, and the `word` to be learnt."""

    model: Model
    prompt: str
    before: Tensor
    after: Tensor
    word: str = "<effect>"

    def told(self, vectors: Tensor, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of prompts in which the word reads as `vectors` (n, D)."""
        return self.model.text.taught(self.word, vectors)(prompts)

    def denoiser(self, vectors: Tensor, prompt: str, guidance_scale: float) -> Denoiser:
        """The model told `prompt`, in which the word reads as `vectors` (n, D)."""
        return self.model.denoiser(self.told(vectors, [prompt]), guidance_scale=guidance_scale)

    @torch.no_grad()
    def x_T(self, settings: Effect) -> Tensor:  # noqa: N802 - the field's name
        """The noise (1, C, h, w) that leads to the picture before: invert_photos, by the solver that will lead to after."""
        denoiser = self.model.denoiser(self.prompt, guidance_scale=settings.guidance_scale)
        times = self.model.schedule.times(settings.steps)
        return invert(denoiser, self.model.encode(self.before), times, solver=DPMSolver())[0]


def start(pair: Pair, settings: Effect) -> Training:
    """The state before the first iteration. Raises UserError if the model cannot be taught the word."""
    blank = pair.model.text.blank.float().expand(settings.vectors, -1)
    pair.model.text.taught(pair.word, blank)
    return Training.of({VECTORS: blank}, 1)


def effect(pair: Pair, settings: Effect | None = None, state: Training | None = None) -> Iterator[Training]:
    """The states after each iteration; `state.values["vectors"]` (n, D) is the word."""
    settings = settings or Effect()
    state = state or start(pair, settings)
    vectors, x_T = state.values[VECTORS].clone().requires_grad_(), pair.x_T(settings)
    times = pair.model.schedule.times(settings.steps)

    def objective(k: int) -> Tensor:
        denoiser = pair.denoiser(vectors, f"{pair.prompt} {pair.word}", settings.guidance_scale)
        x_0 = sample(denoiser, x_T, times, solver=DPMSolver(), gradient=Checkpoint())
        return (pair.model.decode(x_0) - pair.after).square().sum()[None]

    return train({VECTORS: vectors}, objective, settings.optimiser, settings.iterations, state)
