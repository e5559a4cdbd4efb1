"""Guided search, then the exact gradient: no paper's; its parts are those of the papers named."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import invert
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.time_grids import count_steps
from chainrule.methods.base import (
    SEARCH,
    TUNED_STEPS,
    Drawn,
    Method,
    Needs,
    Result,
    Situation,
    Stage,
    State,
    Steps,
    Strength,
    Task,
)
from chainrule.methods.best_of import Best, keep_better
from chainrule.methods.chains import add_noise, generate, reconstruct_photos
from chainrule.methods.chunking import encode_photos, finish, tell_part
from chainrule.methods.doodl import DOODL, LAST, DOODLState
from chainrule.methods.search import draw_noise
from chainrule.methods.tfg import LOOK, TFG, Like, require_plain_draw
from chainrule.optimise import Adam, Momentum, require_whole


class Split(NamedTuple):
    """How a budget is spent, a plain image apart.

    Args:
        short: How many draws in a quarter of the steps look for noise.
        guided: How many draws are guided, from the best of that noise.
        iterations: How often the exact gradient improves the best of all.
    """

    short: int
    guided: int
    iterations: int

    @property
    def draws(self) -> int:
        """How many draws there are, the plain one included."""
        return 1 + self.short + self.guided


@dataclass(frozen=True, eq=False)
class HybridState(DOODLState):
    """As DOODL's, and what the search knows.

    Args:
        scores: (s, B), the losses of the short draws so far.
    """

    scores: Tensor
    layout: ClassVar[Mapping[str, str]] = {**DOODLState.layout, "scores": "s B"}


class Hybrid(Method):
    """Short draws, guided ones from the best of their noise, then the exact gradient: in a budget.

        1. a plain image, and many draws in a quarter of the steps, judged
        2. from their best noise, draws that are guided on the one-step guess; the best is kept
        3. x_T = the noise that leads there without guidance, by DDIM's inversion
        4. x_T = x_T - step(d L(x_0(x_T)) / d x_T), as often as there is budget

    Short chains show what long ones will draw (successive halving), the approximate gradient (Ye
    et al. 2024, TFG) finds what the model never draws, the exact gradient (Wallace et al. 2023,
    DOODL) goes on from there; `benchmarks/rare.py` tells what each is worth. Whatever is delivered
    is the best image that was found, the plain one included; it stops early where every image is
    good enough. Where that was a guided draw, its noise alone does not draw it again. A photo is
    what the search begins with, in place of a plain image; no short draws are made of it, and each
    guided one begins at the photo with noise, as in SDEdit.

    Limits: a network that judges can be deceived by either gradient.
    """

    kind: Literal["hybrid"] = "hybrid"
    needs = Needs.LOSS
    with_photo = ("strength",)
    from_noise = ("screened",)
    state: ClassVar[type[State]] = HybridState
    judges_last = True
    budget: int = Field(
        default=1000,
        ge=1,
        description="Network passes for an image, forwards or backwards; a guidance pair is one, "
        "and so is decoding and judging an image.",
    )
    searched: float = Field(
        default=0.8, ge=0, le=1, description="The share of the budget that is spent on draws."
    )
    screened: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Of that, a plain image and one guided draw apart, the share for short draws.",
    )
    like: Like = Field(default="gentle", description="How draws are guided: as of tfg.")
    rho: float | None = Field(default=None, description="How hard the loss pushes x_t; like's.")
    mu: float | None = Field(default=None, description="How hard it pushes the guess; like's.")
    strength: Strength = 0.5
    steps: Steps = 50
    optimiser: Annotated[Momentum | Adam, Field(discriminator="kind")] = Adam(rate=0.02)
    last: int | None = Field(default=None, ge=1, description=LAST)
    solve: int = Field(
        default=1,
        ge=1,
        description="How many calls undo a step of the inversion: more come nearer to the noise "
        "that leads to the guided image.",
    )
    target: float | None = Field(
        default=None, description="A loss at which an image is good enough and left alone."
    )

    # --- how the budget is spent, in steps of a chain ---------------------------------------------

    @property
    def guide(self) -> TFG:
        """How draws are guided."""
        return TFG(like=self.like, rho=self.rho, mu=self.mu, steps=self.steps)

    @property
    def few(self) -> int:
        """The steps of a short draw."""
        return max(1, self.steps // SHORTER)

    def price(self, task: Any) -> tuple[int, int]:
        """The passes of the plain image, or of the photo as it is, and of a guided draw.

        Args:
            task: Whose photo, if there is one, is edited.
        """
        if task.photo is None:
            return self.steps + LOOK, self.guide.passes
        walked = count_steps(self.steps, self.strength)
        return LOOK, self.guide.model_copy(update={"steps": walked}).passes

    def split(self, task: Any) -> Split:
        """How the budget is spent.

        Args:
            task: Whose photo, if there is one, is edited.
        """
        photo, (first, cost) = task.photo is not None, self.price(task)
        free = self.budget - first
        searched = self._divide(
            max(int(self.searched * self.budget) - first, min(cost, free)), cost, photo
        )
        spent = first + searched.short * (self.few + LOOK) + searched.guided * cost
        differentiated = min(self.steps, self.last or self.steps)
        iteration = self.steps + 2 * differentiated + 2 * LOOK
        inversion, drawn_last = self.solve * self.steps, self.steps + LOOK
        left = self.budget - spent - inversion - drawn_last
        if left >= iteration:
            return searched._replace(iterations=left // iteration)
        return self._divide(free, cost, photo)

    def _divide(self, left: int, cost: int, photo: bool) -> Split:
        """How the passes that are left for draws are spent; one is guided if there are enough."""
        if left < cost:
            return Split(0, 0, 0)
        rest, each = left - cost, self.few + LOOK
        short = 0 if photo else int(self.screened * rest) // each
        return Split(short, 1 + (rest - short * each) // cost, 0)

    def loop(self, task: Any) -> DOODL:
        """The last part.

        Args:
            task: Whose photo, if there is one, is edited.
        """
        return DOODL.bare(
            iterations=self.split(task).iterations,
            steps=self.steps,
            optimiser=self.optimiser,
            target=self.target,
            last=self.last,
        )

    def count_iterations(self, task: Any) -> int:
        split = self.split(task)
        return split.draws + (split.iterations + 1 if split.iterations else 0)

    def stage(self, task: Any, iteration: int) -> Stage:
        split = self.split(task)
        if iteration <= split.draws:
            return Stage(iteration, split.draws, SEARCH)
        return Stage(min(iteration - split.draws, split.iterations), split.iterations)

    @property
    def truncated(self) -> int | None:
        return self.last

    def probe(self, steps: int) -> Method:
        """An iteration: no draw takes more."""
        return DOODL.bare(steps=steps, optimiser=self.optimiser).probe(steps)

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """How draws are guided towards the loss; in the bundled world, its steps as well.

        Pixels cannot be deceived, and are pushed towards harder than what networks judge.
        """
        steps = {} if situation.name == "faithful" else {"steps": TUNED_STEPS}
        return {"like": PUSHED.get(situation.loss, "gentle"), **steps}

    def prepare(self, task: Task) -> Task:
        require_whole(self.optimiser)
        if task.photo is None:
            require_plain_draw(self.budget, self.steps)
        split = self.split(task)
        if not split.guided and not split.iterations:
            what = "plain image" if task.photo is None else "photo as it is"
            warnings.warn(
                f"a budget of {self.budget} passes is spent on the {what}: a guided draw besides "
                f"needs {sum(self.price(task))} (--budget)",
                stacklevel=2,
            )
        prepared: Task = super().prepare(task)
        return prepared

    # --- the algorithm --------------------------------------------------------------------------

    def run(
        self, task: Task, state: HybridState | None = None, on_step: OnStep | None = None
    ) -> Iterator[HybridState]:
        """The states after each draw, then after each iteration: each holds the best so far."""
        loop = self.loop(task)
        if state is None or not state.judged:
            for state in self.search(task, state, on_step):  # noqa: B020 - it goes on
                yield state
        if state is None or not loop.iterations or loop.good(state.best_losses).all():
            return
        if not state.judged:
            best = _best(state)
            begun = loop.begin(task, self.find_noise(task, best, on_step), best)
            state = _know(begun, state.scores)
        while not loop.finished(state):
            state = cast(HybridState, loop.advance(task, state, on_step))
            yield state

    def search(
        self, task: Task, state: HybridState | None, on_step: OnStep | None = None
    ) -> Iterator[HybridState]:
        """The states after each draw: the plain image, short draws, guided ones.

        Args:
            task: Whose seeds and loss.
            state: Where the search goes on.
            on_step: Told after each step.
        """
        split, loop = self.split(task), self.loop(task)
        for draw in range(0 if state is None else state.iteration, split.draws):
            if state is not None and loop.good(state.best_losses).all():
                return
            told = tell_part(on_step, draw, split.draws)
            state = self._draw(task, state, draw, split, told)
            yield state

    def _draw(
        self, task: Task, state: HybridState | None, draw: int, split: Split, told: OnStep | None
    ) -> HybridState:
        """The state after one more draw."""
        if state is None:
            scores = torch.zeros(0, len(task.seeds), device=task.model.device)
            drawn = self._draw_first(task, told)
            return self._keep(task, None, drawn, scores)
        if draw <= split.short:
            x_T = draw_noise(task, torch.full((len(task.seeds),), draw))
            losses = finish(task, generate(task, x_T, self.few, on_step=told)).losses
            scores = torch.cat([state.scores, cast(Tensor, losses)[None].to(state.scores)])
            return replace(state, scores=scores, draws=state.draws + 1)
        x_T = self._choose_noise(task, state.scores, draw - split.short - 1)
        return self._keep(task, state, self._draw_guided(task, x_T, told), state.scores)

    def _draw_first(self, task: Task, told: OnStep | None) -> Drawn:
        """The seeds' plain images, or the photos as they are."""
        if task.photo is not None:
            return reconstruct_photos(task)
        return replace(generate(task, task.x_T, self.steps, on_step=told), x_T=task.x_T)

    def _draw_guided(self, task: Task, x_T: Tensor, told: OnStep | None) -> Drawn:
        """From noise, or from the photos with so much of it."""
        if task.photo is None:
            return replace(self.guide.walk(task, x_T, on_step=told), x_T=x_T)
        start = add_noise(task, encode_photos(task), self.steps, self.strength, x_T)
        drawn = self.guide.walk(task, start, strength=self.strength, on_step=told)
        return replace(drawn, x_T=x_T)

    def _choose_noise(self, task: Task, scores: Tensor, rank: int) -> Tensor:
        """The noise (B, C, h, w) of the short draw of a rank; beyond the last, noise of its own."""
        numbers = torch.full((len(task.seeds),), rank + 1)
        if rank < len(scores):
            numbers = scores.argsort(dim=0, stable=True)[rank] + 1
        return draw_noise(task, numbers)

    def _keep(
        self, task: Task, state: HybridState | None, drawn: Drawn, scores: Tensor
    ) -> HybridState:
        """The state with what was drawn where it is the better one."""
        found, done = finish(task, drawn), 0 if state is None else int(state.draws)
        x_T = drawn.x_T
        new = Best(found.latents, x_T, losses=found.losses, draws=torch.tensor(done + 1))
        best = new if state is None else keep_better(_best(state), new)
        return _know(self.loop(task).begin(task, best.x_T, best), scores)

    @torch.no_grad()
    def find_noise(self, task: Task, best: Best, on_step: OnStep | None = None) -> Tensor:
        """The noise (B, C, h, w) that leads, unguided, to about what was found."""
        times = task.model.schedule.times(self.steps)
        parts = task.split(task.plan.batch_size)
        return torch.cat(
            [
                invert(
                    part.denoiser,
                    best.latents[rows],
                    times,
                    solver=DDIM(self.solve),
                    on_step=tell_part(on_step, i, len(parts)),
                )[0]
                for i, (rows, part) in enumerate(parts)
            ]
        )

    def result(self, task: Task, state: HybridState) -> Result:
        return self.loop(task).result(task, state)


PUSHED: dict[str, Like] = {"picture": "strong"}
"""How draws are guided towards some kinds of losses: as did best on other wishes than those of
`benchmarks/rare.py`."""


SHORTER = 4
"""A short draw takes one in how many steps."""


def _know(state: DOODLState, scores: Tensor) -> HybridState:
    """A state of the loop, with what the search knows."""
    return HybridState(**state.tensors(), scores=scores)


def _best(state: DOODLState) -> Best:
    """What a state of the search has found."""
    x_T, losses = state.best_x_T[0], state.best_losses
    return Best(state.best_latents, x_T, losses=losses, draws=state.draws)
