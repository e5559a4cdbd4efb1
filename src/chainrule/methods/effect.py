"""Text-embedding inversion: AdjointDPM (Pan et al. 2024), appendix A."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning, Denoiser
from chainrule.diffusion.gradient import Checkpoint
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import invert, sample
from chainrule.diffusion.solvers.dpm_solver import DPMSolver
from chainrule.errors import UserError
from chainrule.images import shorten
from chainrule.methods.base import GuidanceScale, Needs, Sheet, Steps, Task, Writer
from chainrule.methods.training import Training, train
from chainrule.methods.tuning import Learning
from chainrule.models.embedding_files import save_word
from chainrule.optimise import Adam

VECTORS = "vectors"


class Effect(Learning):
    """Learns an effect from one picture before and after it, as a new word for other prompts.

        # = argmin |x_0(x_T, prompt #) - after|^2

    Pan et al., "AdjointDPM", 2024, appendix A. The noise x_T that leads to the picture before, told
    what it shows, is found by inversion (DPM-Solver++'s own, which is approximate) and kept. What
    is optimised is a new word in the text encoder's own space. It starts as the padding that fills
    a prompt up, which says nothing: from any other start the first thing to learn would be to be
    silent. The best word that was found is shown, and written as a textual inversion, for any
    diffusers program.

    Limits: what no word can say cannot be learnt (stripes, in the bundled world); for models that
    read prompts, not classes.
    """

    kind: Literal["effect"] = "effect"
    needs = Needs.NOISE | Needs.PICTURES | Needs.PROMPT
    judges_last = True
    word: str = Field(default="<effect>", description="The new word, in angle brackets.")
    other: tuple[str, ...] = Field(default=(), description="Prompts with which the word is tried.")
    vectors: int = Field(default=4, ge=1, description="How many token embeddings the word has.")
    iterations: int = Field(default=100, ge=1, description="How often it is improved.")
    steps: Steps = 10
    guidance_scale: GuidanceScale = 1.0
    optimiser: Adam = Adam(rate=0.03)

    def count_iterations(self, task: Any) -> int:
        return self.iterations + 1  # what the last update made of the word is judged too

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if len(prepared.prompts) != 1:
            raise UserError("an effect is learnt under one prompt", "say what both show", "prompt")
        if len(prepared.pictures) != 2:
            raise UserError(
                f"an effect is learnt from two pictures, not {len(prepared.pictures)}",
                "name one before and one after it",
                "pictures",
            )
        before, after = (
            task.model.codec.fit(picture.to(task.model.device)) for picture in prepared.pictures
        )
        if before.shape != after.shape:
            raise UserError(
                "the picture after has other proportions than the one before",
                "give two pictures of the same scene",
                "pictures",
            )
        prepared = replace(prepared, pictures=(before, after))
        prompts = [f"{prompt} {self.word}" for prompt in (prepared.prompts[0], *self.other)]
        self.tell(prepared, self.begin(prepared).values[VECTORS], prompts)
        return prepared

    def begin(self, task: Task, given: Mapping[str, Tensor] | None = None) -> Training:
        """The state before the first iteration. Raises UserError if the word cannot be taught."""
        padding = task.model.text.pad_embedding.float().expand(self.vectors, -1)
        task.model.text.with_token(self.word, padding)
        return Training.begin({VECTORS: padding}, 1, self.optimiser)

    def run(
        self, task: Task, state: Training | None = None, on_step: OnStep | None = None
    ) -> Iterator[Training]:
        state = self.begin(task) if state is None else state
        vectors, x_T = state.values[VECTORS].clone().requires_grad_(), self.find_noise(task)
        model, after = task.model, task.pictures[1][None]
        times, gradient = model.schedule.times(self.steps), Checkpoint(task.plan.keep)

        def objective(k: int) -> Iterator[Tensor]:
            denoiser = self.denoiser(task, vectors, f"{task.prompts[0]} {self.word}")
            x_0 = sample(
                denoiser, x_T, times, solver=DPMSolver(), gradient=gradient, on_step=on_step
            )
            yield (model.decode(x_0) - after).square().sum()[None]

        parts: Any = ({VECTORS: vectors}, objective, self.optimiser, self.iterations, state)
        return train(*parts, keep_best=True)

    def tell(self, task: Task, vectors: Tensor, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of prompts in which the word reads as `vectors` (n, D).

        Args:
            task: Whose model.
            vectors: (n, D), token embeddings.
            prompts: What is said.
        """
        return task.model.text.with_token(self.word, vectors)(prompts)

    def denoiser(self, task: Task, vectors: Tensor, prompt: str) -> Denoiser:
        """The model told a prompt, in which the word reads as `vectors` (n, D).

        Args:
            task: Whose model.
            vectors: (n, D), token embeddings.
            prompt: What is said.
        """
        told = self.tell(task, vectors, [prompt])
        return task.model.denoiser(told, guidance_scale=self.guidance_scale)

    def find_noise(self, task: Task) -> Tensor:
        """The noise (1, C, h, w) that leads to the picture before, by the solver that leads on."""
        denoiser = task.model.denoiser(task.prompts[0], guidance_scale=self.guidance_scale)
        z = task.model.encode(task.pictures[0][None])
        return invert(denoiser, z, task.model.schedule.times(self.steps), solver=DPMSolver())[0]

    def draw(self, task: Task, vectors: Tensor, prompt: str, x_T: Tensor) -> Tensor:
        """The images (B, 3, H, W) of a prompt from the noise `x_T` (B, C, h, w).

        Args:
            task: Whose model.
            vectors: (n, D), token embeddings.
            prompt: What is said.
            x_T: (B, C, h, w).

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        denoiser = self.denoiser(task, vectors, prompt)
        times = task.model.schedule.times(self.steps)
        return task.model.decode(sample(denoiser, x_T, times, solver=DPMSolver()))

    def result(self, task: Task, state: Training) -> Sheet:
        """The pair, and what the word makes of its noise, of other prompts and seeds."""
        vectors, (before, after) = _best(state), task.pictures
        noise = torch.cat([self.find_noise(task), task.model.noise(task.seeds)])
        said = (task.prompts[0], *self.other)
        prompts = [text for prompt in said for text in (prompt, f"{prompt} {self.word}")]
        size = task.plan.decoded_at_once or len(noise)
        made = [
            torch.cat([self.draw(task, vectors, prompt, part) for part in noise.split(size)])
            for prompt in prompts
        ]
        white = torch.ones_like(before)
        columns = {"the pair": torch.stack([before, after, *[white] * (len(prompts) - 2)])}
        names = ("its noise", *(f"seed {seed}" for seed in task.seeds))
        columns |= {name: torch.stack([each[i] for each in made]) for i, name in enumerate(names)}
        captions: dict[str, Sequence[str]]
        captions = {name: [shorten(prompt) for prompt in prompts] for name in columns}
        captions["the pair"] = [""] * len(prompts)
        error = state.losses.min().item() / after.numel()
        return Sheet(
            columns,
            ["without", "with"] * len(said),
            captions,
            f"{said[0]}  {self.word}",
            {"error": error},
        )

    def artefacts(self, task: Task, state: Training) -> Mapping[str, Writer]:
        """The word as a textual inversion, as `save_word` says who reads it."""
        vectors, text = _best(state), task.model.text
        writer: Any = lambda path: save_word(path, self.word, vectors, text)  # noqa: E731
        return {"embedding.safetensors": writer}


def _best(state: Training) -> Tensor:
    """The word (n, D) of the lowest error; before the first iteration, the one it starts as."""
    return (state.best or state.values)[VECTORS]
