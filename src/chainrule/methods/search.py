"""Search without a gradient: successive halving, random moves, or particles.

Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016
(successive halving; Li et al., "Hyperband", 2018): N noises are drawn in a quarter of the steps,
the better third again in half of them, their better third in all. DDIM's chains of any length
follow one path, so that few steps show what all of them will.

Ma et al., "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps", 2025
(zero-order search): from the best of some draws, by moves that leave noise noise,

    x' = sqrt(1 - b^2) x + b z,   z ~ N(0, I);    x = x' where its loss is lower
    b = 1.5 b after a success, 1.5^(-1/4) b after a failure      Rechenberg's one-fifth rule

Singhal et al. 2025 (Feynman-Kac steering): `chainrule.methods.particles`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
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
    Task,
    require_heeded,
)
from chainrule.methods.best_of import Best, keep_better
from chainrule.methods.chains import generate
from chainrule.methods.chunking import finish, tell_part
from chainrule.methods.fitting import not_its_own
from chainrule.methods.particles import RESAMPLING, resample, walk_particles, weigh
from chainrule.methods.tfg import LOOK, require_plain_draw
from chainrule.noise import Noise

MOVES = "search/moves"
"""The stream of z."""
LENGTHS, KEPT = (4, 2, 1), 3
"""Of halving: the shares of the steps in each rung, and one in how many goes on."""
GROWTH, SHORTEST = 1.5, 0.02
"""Of moves: what b grows by after a success, and its least."""


@dataclass(frozen=True, eq=False)
class Sought(Best):
    """The best so far, and what is at work: p candidates or particles of each image.

    Args:
        origins: (p, B), which draws of the seeds' noise they began as.
        scores: (s, B), the losses of the candidates of this rung that were drawn, or the lowest
            that each particle was seen with.
        particles: (p, B, C, h, w), where they are.
        reach: (B,), b of the moves.
    """

    origins: Tensor | None = None
    scores: Tensor | None = None
    particles: Tensor | None = None
    reach: Tensor | None = None
    layout: ClassVar[Mapping[str, str]] = {
        **Best.layout,
        "draws": " int",
        "origins": "p B int",
        "scores": "s B",
        "particles": "p B C h w",
        "reach": "B",
    }

    def keep(self, x_T: Tensor, found: Result) -> Sought:
        """This state with the images that were found where they are the better ones."""
        new = Best(found.latents, x_T, losses=found.losses, draws=self.draws)
        return replace(self, **keep_better(self, new).tensors())

    def count(self) -> Sought:
        """This state after one more draw, or group of steps."""
        return replace(self, draws=self.draws + 1)


class Search(Method):
    """Looks for the image with the lowest loss within a budget, and asks for no gradient.

        halving     N draws in steps / 4, the better third in steps / 2, theirs in all steps
        moves       x' = sqrt(1 - b^2) x + b z from the best draw, kept where it is better
        particles   k chains of DDPM, drawn again at odds of exp(lambda (best reward's rise))

    Jamieson & Talwalkar 2016 (successive halving); Ma et al. 2025 (zero-order search), with b by
    the one-fifth rule; Singhal et al. 2025 (Feynman-Kac steering). The loss may be anything that
    gives a number. N and k follow from the budget. The first draw is the seed's plain image, which
    nothing that is delivered is worse than.

    Limits: it finds what the model draws at times, and little besides; lambda is in units of the
    loss; of particles, the starting noise alone does not make the image again.
    """

    kind: Literal["search"] = "search"
    needs = Needs.NOISE | Needs.LOSS
    state: ClassVar[type[State]] = Sought
    differentiates = False
    by: Literal["halving", "moves", "particles"] = Field(
        default="halving", description="How: halving, moves or particles."
    )
    budget: int = Field(
        default=1000,
        ge=1,
        description="Network passes for an image; a guidance pair is one, and so is decoding and "
        "judging an image.",
    )
    steps: Steps = 50
    searched: float = Field(
        default=0.3, ge=0, le=1, description="Of moves: the budget's share for draws, before them."
    )
    reach: float = Field(
        default=0.5, ge=SHORTEST, le=1, description="Of moves: b at first; 1 is another draw."
    )
    sharpness: float = Field(
        default=10.0, ge=0, description="Of particles: lambda, how hard the loss weighs them."
    )
    looks: int = Field(
        default=5, ge=1, description="Of particles: how often they are judged, the last included."
    )

    @model_validator(mode="after")
    def _check(self) -> Search:
        if self.by != "moves":
            require_heeded(self, ["searched", "reach"], f"by {self.by}")
        if self.by != "particles":
            require_heeded(self, ["sharpness", "looks"], f"by {self.by}")
        return self

    # --- how the budget is spent ------------------------------------------------------------------

    @property
    def _left(self) -> int:
        """What the seed's own image leaves."""
        return self.budget - self.steps - LOOK

    @property
    def rungs(self) -> list[tuple[int, int]]:
        """Of halving: the steps of each rung, and how many are drawn in it."""

        def cost(count: int) -> int:
            return sum((steps + LOOK) * size for steps, size in self._halve(count))

        most = max(self._left, 0)
        return self._halve(bisect_right(range(most + 1), most, key=cost) - 1)

    def _halve(self, count: int) -> list[tuple[int, int]]:
        """The rungs of so many candidates; one in which nobody would leave is left out."""
        lengths = sorted({max(1, self.steps // share) for share in LENGTHS})
        sizes = [-(-count // KEPT**rung) for rung in range(len(lengths))]
        later = [*sizes[1:], 0]
        return [(n, a) for n, a, b in zip(lengths, sizes, later, strict=True) if a > b]

    @property
    def draws(self) -> int:
        """Of moves: how many images are drawn in all."""
        return max(1, self.budget // (self.steps + LOOK))

    @property
    def stops(self) -> list[int]:
        """Of particles: after which steps they are looked at.

        Not before the last one, which adds no noise: who is there twice would end as the same.
        """
        even = {-(-self.steps * look // self.looks) for look in range(1, self.looks + 1)}
        return sorted(even - {self.steps - 1})

    @property
    def particles(self) -> int:
        """How many there are."""
        return max(self._left, 0) // (self.steps + LOOK * len(self.stops))

    def count_iterations(self, task: Any) -> int:
        if self.by == "halving":
            return 1 + sum(size for _, size in self.rungs)
        if self.by == "moves":
            return self.draws
        return 1 + (len(self.stops) if self.particles else 0)

    def stage(self, task: Any, iteration: int) -> Stage:
        return Stage(iteration, self.count_iterations(task), SEARCH)

    def probe(self, steps: int) -> Search:
        return self.model_copy(update={"steps": steps, "budget": steps + LOOK})

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        return {} if situation.name == "faithful" else {"steps": TUNED_STEPS}

    def prepare(self, task: Task) -> Task:
        require_plain_draw(self.budget, self.steps)
        prepared: Task = super().prepare(task)
        return prepared

    # --- the algorithms ---------------------------------------------------------------------------

    def run(
        self, task: Task, state: Sought | None = None, on_step: OnStep | None = None
    ) -> Iterator[Sought]:
        """The best so far after each draw, or after each group of the particles' steps."""
        _ = task.require_loss()
        if state is None:
            told = tell_part(on_step, 0, self.draws if self.by == "moves" else 1)
            found = finish(task, generate(task, task.x_T, self.steps, on_step=told))
            state = Sought(found.latents, found.x_T, losses=found.losses)
            yield state
        ways = {"halving": self.halve, "moves": self.move, "particles": self.steer}
        yield from ways[self.by](task, state, on_step)

    def halve(self, task: Task, state: Sought, on_step: OnStep | None = None) -> Iterator[Sought]:
        """Draw all in few steps, the better ones again in more.

        Args:
            task: Whose seeds and loss.
            state: The best so far.
            on_step: Told after each step, of those of a rung.
        """
        for steps, size in self.rungs:
            state = self._climb(task, state, size)
            origins, scores = _given(state.origins), _given(state.scores)
            if len(origins) < size:
                continue  # a rung that was left before
            for k in range(len(scores), size):
                x_T = draw_noise(task, origins[k])
                told = tell_part(on_step, k, size)
                found = finish(task, generate(task, x_T, steps, on_step=told))
                state = state.keep(x_T, found) if steps == self.steps else state
                scores = torch.cat([scores, _given(found.losses)[None]])
                state = replace(state.count(), scores=scores)
                yield state

    def _climb(self, task: Task, state: Sought, size: int) -> Sought:
        """The state at the beginning of a rung of `size`; as it is if it is there, or further."""
        none = _given(state.losses)[None][:0]
        if state.origins is None or state.scores is None:  # all begin
            return replace(state, origins=list_draws(task, size), scores=none)
        if len(state.origins) <= size:
            return state
        better = state.scores.argsort(dim=0, stable=True)[:size]
        return replace(state, origins=state.origins.gather(0, better), scores=none)

    def move(self, task: Task, state: Sought, on_step: OnStep | None = None) -> Iterator[Sought]:
        """Draw, then move from the best.

        Args:
            task: Whose seeds and loss.
            state: The best so far.
            on_step: Told after each step, of those of all draws.
        """
        count, shape = self.draws, task.model.codec.latent_shape
        first = max(1, round(self.searched * count))
        reach = (
            torch.full_like(_given(state.losses), self.reach)
            if state.reach is None
            else state.reach
        )
        for k in range(state.iteration, count):
            x_T = task.noise.normal(k, shape).to(state.x_T)
            if k >= first:
                b = reach[:, None, None, None]
                z = task.noise.stream(MOVES).normal(k, shape).to(state.x_T)
                x_T = (1 - b**2).sqrt() * state.x_T + b * z
            told = tell_part(on_step, k, count)
            found = finish(task, generate(task, x_T, self.steps, on_step=told))
            if k >= first:
                better = _given(found.losses) < _given(state.losses)
                reach = reach * torch.where(better, GROWTH, GROWTH**-0.25)
                reach = reach.clamp(SHORTEST, 1.0)
            state = replace(state.keep(x_T, found).count(), reach=reach)
            yield state

    def steer(self, task: Task, state: Sought, on_step: OnStep | None = None) -> Iterator[Sought]:
        """Walk all particles from look to look; the likelier ones go on, some several times.

        Args:
            task: Whose seeds and loss.
            state: The best so far.
            on_step: Told after each step, of those of all particles.
        """
        count = self.particles
        if not count:
            return
        if state.particles is None:
            origins = list_draws(task, count)
            lows = torch.full_like(_given(state.losses), torch.inf).repeat(count, 1)
            starts = torch.stack([draw_noise(task, each) for each in origins])
            state = replace(state, origins=origins, scores=lows, particles=starts)
        marks = [0, *self.stops]
        for look in range(state.iteration - 1, len(self.stops)):
            part = marks[look], marks[look + 1]
            state = self._advance(task, state, look, part, on_step).count()
            yield state

    def _advance(
        self, task: Task, state: Sought, look: int, part: tuple[int, int], on_step: OnStep | None
    ) -> Sought:
        """The particles after some steps: drawn again, or at the end the best of them kept."""
        origins, before = _given(state.origins), _given(state.scores)
        done, moved, losses = part[1] == self.steps, [], []
        for j, each in enumerate(
            walk_particles(task, _given(state.particles), self.steps, part, on_step)
        ):
            shown = each.latents if done else each.guess
            found = finish(task, Drawn(shown, shown))
            state = state.keep(draw_noise(task, origins[j]), found) if done else state
            moved.append(each.latents)
            losses.append(_given(found.losses))
        particles, seen = torch.stack(moved), torch.stack(losses)
        lows = torch.minimum(before, seen)
        if done:
            return replace(state, particles=particles, scores=lows)
        u = task.noise.stream(RESAMPLING).uniform(look, (1,))[:, 0]
        index = resample(weigh(before, seen, self.sharpness), u).to(particles.device)
        rows = torch.arange(index.shape[1], device=index.device)
        origins, lows = origins[index, rows], lows[index, rows]
        return replace(state, origins=origins, scores=lows, particles=particles[index, rows])

    def result(self, task: Task, state: Sought) -> Result:
        return finish(task, state)

    def __call__(self, task: Any, on_step: OnStep | None = None) -> Result:
        result: Result = super().__call__(task, on_step)
        return result


def list_draws(task: Task, count: int) -> Tensor:
    """Draws 1, 2, ... of each seed's noise, (count, B): draw 0 is that of its plain image."""
    first = torch.arange(1, count + 1, device=task.model.device)
    return first[:, None].repeat(1, len(task.seeds))


def draw_noise(task: Task, numbers: Tensor) -> Tensor:
    """The noise (B, C, h, w) of each seed's own draw.

    Args:
        task: Whose seeds.
        numbers: (B,), which draw it is.
    """
    each = zip(task.seeds, numbers.tolist(), strict=True)
    shape = task.model.codec.latent_shape
    return torch.cat([Noise((seed,)).normal(k, shape) for seed, k in each]).to(task.model.device)


def _given(part: Tensor | None) -> Tensor:
    """A part that a state of this kind of search has."""
    if part is None:
        raise not_its_own("it lacks a part")
    return part
