"""Guided search, then the exact gradient: no paper's; its parts are those of the papers named."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import invert
from chainrule.methods.base import (
    SEARCH,
    TUNED_STEPS,
    Method,
    Needs,
    Result,
    Situation,
    Stage,
    State,
    Steps,
    Task,
)
from chainrule.methods.best_of import Best, keep_better
from chainrule.methods.chains import generate
from chainrule.methods.chunking import finish, tell_part
from chainrule.methods.doodl import DOODL, DOODLState
from chainrule.methods.tfg import LOOK, TFG, Like, require_plain_draw
from chainrule.optimise import Adam, Momentum, require_whole


class Hybrid(Method):
    """Draws, plain and guided, and then the exact gradient from the best: within a budget.

        1. a plain draw, and N that are guided on the one-step guess; the best is kept
        2. x_T = the noise that leads there without guidance, by DDIM's inversion
        3. x_T = x_T - step(d L(x_0(x_T)) / d x_T), m times, through the whole chain

    The approximate gradient (Ye et al. 2024, TFG) finds the basin, the search discards its
    failures, the exact gradient (Wallace et al. 2023, DOODL) goes on from there; in the bundled
    world it adds little (`benchmarks/rare.py`). N and m follow from the budget. Whatever is
    delivered is the best image that was found, the plain one included; it stops early where every
    image is good enough. Where that was a guided draw, its noise alone does not draw it again.

    Limits: where one plain draw in ten is right, plain draws alone are better; a network that
    judges can be deceived by either gradient.
    """

    kind: Literal["hybrid"] = "hybrid"
    needs = Needs.LOSS | Needs.NOISE
    state: ClassVar[type[State]] = DOODLState
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
    like: Like = Field(default="gentle", description="How draws are guided: as of tfg.")
    rho: float | None = Field(default=None, description="How hard the loss pushes x_t; like's.")
    mu: float | None = Field(default=None, description="How hard it pushes the guess; like's.")
    steps: Steps = 50
    optimiser: Annotated[Momentum | Adam, Field(discriminator="kind")] = Adam(rate=0.02)
    target: float | None = Field(
        default=None, description="A loss at which an image is good enough and left alone."
    )

    # --- how the budget is spent, in steps of a chain ---------------------------------------------

    @property
    def guide(self) -> TFG:
        """How draws are guided."""
        return TFG(like=self.like, rho=self.rho, mu=self.mu, steps=self.steps)

    @property
    def draws(self) -> int:
        """How many there are: a plain one, and guided ones."""
        cost, plain = self.guide.passes, self.steps + LOOK
        guided = max(0, int(self.searched * self.budget) - plain) // cost
        return 1 + (guided or int(self.budget - plain >= cost))  # one if there is budget for it

    @property
    def iterations(self) -> int:
        """How often the noise is improved, for 3 passes a step; inversion and last image apart."""
        walk = self.steps + LOOK
        left = self.budget - 2 * walk - (self.draws - 1) * self.guide.passes - self.steps
        return max(0, left // (3 * self.steps + 2 * LOOK))

    @property
    def loop(self) -> DOODL:
        """The third part."""
        return DOODL.bare(
            iterations=self.iterations,
            steps=self.steps,
            optimiser=self.optimiser,
            target=self.target,
        )

    def count_iterations(self, task: Any) -> int:
        return self.draws + (self.iterations + 1 if self.iterations else 0)

    def stage(self, task: Any, iteration: int) -> Stage:
        if iteration <= self.draws:
            return Stage(iteration, self.draws, SEARCH)
        return Stage(min(iteration - self.draws, self.iterations), self.iterations)

    def probe(self, steps: int) -> Method:
        """An iteration: no draw takes more."""
        return self.loop.probe(steps)

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """How draws are guided towards the loss; in the bundled world, its steps as well.

        Pixels cannot be deceived, and are pushed towards harder than what networks judge.
        """
        steps = {} if situation.name == "faithful" else {"steps": TUNED_STEPS}
        return {"like": PUSHED.get(situation.loss, "gentle"), **steps}

    def prepare(self, task: Task) -> Task:
        require_whole(self.optimiser)
        require_plain_draw(self.budget, self.steps)
        if self.draws == 1 and not self.iterations:
            least = self.steps + LOOK + self.guide.passes
            warnings.warn(
                f"a budget of {self.budget} passes is spent on the plain image: a guided draw "
                f"besides needs {least} (--budget)",
                stacklevel=2,
            )
        prepared: Task = super().prepare(task)
        return prepared

    # --- the algorithm --------------------------------------------------------------------------

    def run(
        self, task: Task, state: DOODLState | None = None, on_step: OnStep | None = None
    ) -> Iterator[DOODLState]:
        """The states after each draw, then after each iteration: each holds the best so far."""
        loop = self.loop
        if state is None or not state.judged:
            for best in self.search(task, state, on_step):
                state = loop.begin(task, best.x_T, best)
                yield state
        if state is None or not self.iterations or loop.good(state.best_losses).all():
            return
        if not state.judged:
            best = _best(state)
            state = loop.begin(task, self.find_noise(task, best, on_step), best)
        while not loop.finished(state):
            state = loop.advance(task, state, on_step)
            yield state

    def search(
        self, task: Task, state: DOODLState | None, on_step: OnStep | None = None
    ) -> Iterator[Best]:
        """The best so far after each draw; the first is the plain image's.

        Args:
            task: Whose seeds and loss.
            state: Where the search goes on.
            on_step: Told after each step.
        """
        best = None if state is None else _best(state)
        shape, count = task.model.codec.latent_shape, self.draws
        for draw in range(0 if best is None else best.iteration, count):
            if best is not None and best.losses is not None and self.loop.good(best.losses).all():
                return
            x_T = task.noise.normal(draw, shape).to(task.model.device)
            told = tell_part(on_step, draw, count)
            drawn = (
                self.guide.walk(task, x_T, on_step=told)
                if draw
                else generate(task, x_T, self.steps, on_step=told)
            )
            found = finish(task, drawn)
            new = Best(found.latents, x_T, losses=found.losses, draws=torch.tensor(draw + 1))
            best = new if best is None else keep_better(best, new)
            yield best

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
                    on_step=tell_part(on_step, i, len(parts)),
                )[0]
                for i, (rows, part) in enumerate(parts)
            ]
        )

    def result(self, task: Task, state: DOODLState) -> Result:
        return self.loop.result(task, state)


PUSHED: dict[str, Like] = {"picture": "strong"}
"""How draws are guided towards some kinds of losses: as did best on other wishes than those of
`benchmarks/rare.py`."""


def _best(state: DOODLState) -> Best:
    """What a state of the search has found."""
    x_T, losses = state.best_x_T[0], state.best_losses
    return Best(state.best_latents, x_T, losses=losses, draws=state.draws)
