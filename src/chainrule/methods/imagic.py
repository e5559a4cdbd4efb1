"""Imagic: Kawar et al., "Imagic: Text-Based Real Image Editing with Diffusion Models", 2023."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioning
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.matching import matching_loss
from chainrule.images import contact_sheet
from chainrule.methods.base import Drawn, Method, Needs, Result, Steps, Task, Writer
from chainrule.methods.chains import generate, warn_if_unchanged
from chainrule.methods.chunking import decode, finish
from chainrule.methods.one_photo import encode_photo, read_told, require_one_edit, retell
from chainrule.methods.thing import draw_batch
from chainrule.methods.training import Training, train
from chainrule.methods.tuning import Learning, Rank
from chainrule.models import trained
from chainrule.models.trained import Part
from chainrule.optimise import Adam

EMBEDDING = "embedding "
"""How the names of the embedding's tensors begin; all others are weights."""
ETAS = tuple(k / 10 for k in range(11))
"""What the grid shows."""


class Imagic(Learning):
    """Learns what to call a photo and how to draw it, and goes from there towards the prompt.

        e_opt = argmin_e E |eps - eps_theta(x_t, t, e)|^2,  from e_tgt     (A) eq. 3
        theta = argmin   E |eps - eps_theta(x_t, t, e_opt)|^2              (B) eq. 3
        e = eta e_tgt + (1 - eta) e_opt,  drawn from noise                 (C) eq. 4

    Kawar et al., "Imagic: Text-Based Real Image Editing with Diffusion Models", 2023. e_tgt is the
    prompt's embedding; at eta 0 the photo comes back, at 1 the tuned network draws the prompt. All
    weights are tuned, or a LoRA (Hu et al. 2022). The defaults are what the paper reports for
    Stable Diffusion (1000 and 1500 iterations), as far as known here; the community pipeline of
    diffusers takes 500 at 1e-3 and 1000 at 2e-6. The paper chooses eta by eye, mostly 0.6 to 0.8:
    `etas.png` shows the first seed at all. It also tunes Imagen's upsamplers; there are none here.

    Limits: one training for each photo and prompt; the right eta differs from edit to edit; too
    much of phase A leaves nothing between photo and prompt.
    """

    kind: Literal["imagic"] = "imagic"
    needs = Needs.PHOTO | Needs.PROMPT
    trains: ClassVar[bool] = False  # what it learns is not shown on the way
    to_change_more: ClassVar[str] = "raise its eta"
    eta: float = Field(default=0.7, ge=0, description="From the photo (0) to the prompt (1).")
    rank: Rank = None
    embedding_iterations: int = Field(default=1000, ge=0, description="Of the embedding (A).")
    iterations: int = Field(default=1500, ge=0, description="Of the weights (B).")
    batch: int = Field(default=1, ge=1, description="How many noises and times at once.")
    embedding_optimiser: Adam = Adam(rate=2e-3, beta2=0.999)
    optimiser: Adam = Adam(rate=5e-7, beta2=0.999)
    steps: Steps = 50
    bundled_world: ClassVar[Mapping[str, Any]] = {  # all of the prompt's meaning
        "eta": 1.0,
        "embedding_iterations": 200,
        "iterations": 300,
        "batch": 4,
        "optimiser": Adam(rate=1e-4, beta2=0.999),
        "steps": 20,
    }

    @property
    def part(self) -> Part:
        return Part(self.rank, "attention")

    def count_iterations(self, task: Any) -> int:
        return self.embedding_iterations + self.iterations

    def probe(self, steps: int) -> Method:
        return super().probe(steps).model_copy(update={"embedding_iterations": 0})

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        require_one_edit(prepared, self.kind)
        return prepared

    def begin(self, task: Task, given: Mapping[str, Tensor] | None = None) -> Training:
        told, given = read_told(task), self.gather(task) if given is None else given
        target = {f"{EMBEDDING}{i}": e.float() for i, e in enumerate(told) if e.is_floating_point()}
        return Training.begin(target, 1, self.embedding_optimiser, **given)

    def gather(self, task: Task) -> dict[str, Tensor]:
        return {"photo": encode_photo(task)}

    def require_own(self, task: Task, state: Training) -> None:
        own = self.begin(task)
        if state.iteration > self.embedding_iterations:
            with trained.train(task.model, self.part) as weights:
                own = own.join(Training.begin(weights, 1, self.optimiser))
        state.require_like(own, self.count_iterations(task))

    def run(
        self, task: Task, state: Training | None = None, on_step: OnStep | None = None
    ) -> Iterator[Training]:
        state, count = self.begin(task) if state is None else state, self.embedding_iterations
        told, photo = read_told(task), state.given["photo"]
        if not self.count_iterations(task):
            yield state

        def match(e: Mapping[str, Tensor], phase: str, k: int) -> Tensor:
            b = draw_batch(f"imagic/{phase}", k, photo, self.batch, task.model)
            asked = task.model.denoiser(mix(told, e, 0.0), guidance_scale=1.0)
            return matching_loss(asked, photo[b.rows], b.eps, b.times).mean()[None]  # eq. 3

        names = [name for name in state.values if name.startswith(EMBEDDING)]
        e = {name: state.values[name].clone().requires_grad_() for name in names}
        find = partial(match, e, "embedding")  # (A)
        for found in train(e, find, self.embedding_optimiser, count, state, every=20):
            yield (state := found)
        with trained.train(task.model, self.part) as weights:
            begun = Training.begin(weights, 1, self.optimiser)
            learnt, after = state.select(names, slice(count)), slice(count, None)
            tuned = state.select(weights, after) if state.iteration > count else begun
            tune = partial(match, learnt.values, "weights")  # (B)
            for found in train(weights, tune, self.optimiser, self.iterations, tuned, every=20):
                yield learnt.join(found)

    @torch.no_grad()
    def result(self, task: Task, state: Training) -> Result:
        found = finish(task, self.draw(task, state, self.eta))
        if self.eta:
            warn_if_unchanged(self, task, found)
        return found

    def draw(self, task: Task, state: Training, eta: float) -> Drawn:
        """The images between the photo (0) and the prompt (1), guided as the task is."""
        told = retell(task.model, task.denoiser, mix(read_told(task), state.values, eta))
        weights = {n: value for n, value in state.values.items() if not n.startswith(EMBEDDING)}
        with trained.use(task.model, self.part, weights):
            return generate(task, task.x_T, self.steps, denoiser=told)

    def artefacts(self, task: Task, state: Training) -> Mapping[str, Writer]:
        """A grid from the photo to the prompt, of the first seed."""

        @torch.no_grad()
        def write(path: Path) -> None:
            first = task.select([0])
            drawn = {f"eta {eta:g}": self.draw(first, state, eta) for eta in ETAS}
            columns = {name: decode(first, each.latents) for name, each in drawn.items()}
            columns = {"the photo": first.require_photo().images, **columns}
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
    return tuple(
        learnt[name].lerp(target.float(), eta) if (name := f"{EMBEDDING}{i}") in learnt else target
        for i, target in enumerate(told)
    )
