"""A before/after pair becomes a word: `chainrule effect BEFORE AFTER`.

embedding.safetensors   the word, as diffusers' `load_textual_inversion` reads it
grid.png                the pair, what the word makes of it, and of other prompts and seeds
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from chainrule.errors import UserError
from chainrule.jobs.base import Job, Moment, Work, save_grid, shortened
from chainrule.methods.effect import VECTORS, Effect, Pair, effect, start
from chainrule.optimise import Training
from chainrule.pictures import grid
from chainrule.run import atomic
from chainrule.diffusion.sampling import sample
from chainrule.diffusion.solvers.dpm_solver import DPMSolver


class EffectJob(Job):
    """`before` and `after` are pictures, `prompt` what both show, `word` what is learnt; `others` are prompts with
    which the result is shown, each with the `seeds`."""

    kind: Literal["effect"] = "effect"
    before: Path
    after: Path
    prompt: str
    word: str = "<effect>"
    others: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    effect: Effect = Effect()

    def work(self) -> Work:
        if not self.prompt.strip():
            raise UserError("say what the picture before shows: --prompt")
        model = self.load()
        model.schedule.times(self.effect.steps)
        before, after = (self.fitted(path, model)[None] for path in (self.before, self.after))
        if before.shape != after.shape:
            raise UserError(
                f"{self.after} has other proportions than {self.before}: give two pictures of the same scene"
            )
        pair = Pair(model, self.prompt, before, after, self.word)
        first = start(pair, self.effect)
        pair.told(first.values[VECTORS], [f"{prompt} {self.word}" for prompt in (self.prompt, *self.others)])
        return _Work(self, pair, first)


@dataclass
class _Work(Work):
    job: EffectJob
    pair: Pair
    start: Training

    @property
    def device(self) -> str:  # type: ignore[override]
        return self.job.device

    @property
    def total(self) -> int:  # type: ignore[override]
        return self.job.effect.iterations

    def moments(self, tensors: Mapping[str, Tensor] | None) -> Iterator[Moment]:
        state = self.start if tensors is None else Training.unpacked(tensors)
        for now in effect(self.pair, self.job.effect, state):
            yield Moment(now.packed(), now.iteration, f"error {now.losses[-1].item() / self.pair.after.numel():.5f}")

    @torch.no_grad()
    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> Path:
        vectors = Training.unpacked(tensors).values[VECTORS]
        with atomic(folder / "embedding.safetensors") as path:
            save_file({self.pair.word: vectors.contiguous().cpu()}, path)
        job, pair = self.job, self.pair
        noise = torch.cat([pair.x_T(job.effect), pair.model.noise(job.seeds)])
        texts = [text for prompt in (pair.prompt, *job.others) for text in (prompt, f"{prompt} {pair.word}")]
        made = [self._drawn(vectors, text, noise) for text in texts]
        blank = torch.ones_like(pair.before)
        columns = {"the pair": torch.cat([pair.before, pair.after, *[blank] * (len(texts) - 2)])}
        columns |= {
            name: torch.stack([images[i] for images in made])
            for i, name in enumerate(("its noise", *(f"seed {seed}" for seed in job.seeds)))
        }
        captions = {name: [shortened(text) for text in texts] for name in columns} | {"the pair": [""] * len(texts)}
        rows = ["without", "with"] * (len(texts) // 2)
        return save_grid(grid(columns, rows, captions, title=f"{pair.prompt}  {pair.word}"), folder, job)

    def _drawn(self, vectors: Tensor, prompt: str, x_T: Tensor) -> Tensor:
        settings = self.job.effect
        denoiser = self.pair.denoiser(vectors, prompt, settings.guidance_scale)
        times = self.pair.model.schedule.times(settings.steps)
        return self.pair.model.decode(sample(denoiser, x_T, times, solver=DPMSolver()))
