"""DOODL: Wallace, Gokul, Ermon & Naik, "End-to-End Diffusion Latent Optimization Improves
Classifier Guidance", 2023, Algorithm 1.

    x, y = x_T;   (x_0, y_0) = EDICT(x, y)                             the chain, T steps
    L = (loss(crops of decode(x_0)) + loss(crops of decode(y_0))) / 2
    g = clip(-lambda dL/dx_T, 1e-3);   m = 0.9 m + g                   eq. 8
    x_T = x_T + m + N(0, 1e-4 I);   x_T = x_T |first draw| / |x_T|

m times. The gradient is that of the whole chain, so it is the finished image that is judged. Where
paper and public code differ, the defaults are the paper's:

- noise: the paper's N(0, 1e-4 I) is a standard deviation of 1e-2, the code's is 1e-4;
- the code halves the gradient twice (0.5 an image, and the mean of the pair);
- for photos, the code does not renormalise.

What keeps the noise like noise (`chainrule.diffusion.noise_priors`) is no part of the paper, but
for the norm: terms of the loss, or a projection P, after each update or as part of the chain, so
that the gradient is that of loss(P(x_T)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from chainrule.diffusion.constraints import constrain
from chainrule.diffusion.gradient import Adjoint, Checkpoint, Gradient, Truncated
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.noise_priors import (
    NoiseTerm,
    noise_statistics,
    noise_terms,
    project_on_sphere,
    whiten,
)
from chainrule.diffusion.sampling import sample_state
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.base import State as Latents
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.solvers.edict import EDICT
from chainrule.errors import UserError
from chainrule.losses.base import Loss, describe_loss
from chainrule.losses.cutouts import crop
from chainrule.memory import begin_phase
from chainrule.methods.base import (
    SEARCH,
    TUNED_MIX,
    TUNED_STEPS,
    Coupling,
    Method,
    Needs,
    Result,
    Situation,
    Stage,
    State,
    Steps,
    Task,
    Turns,
    require_heeded,
)
from chainrule.methods.best_of import Best, search
from chainrule.methods.chains import generate, invert_photos, warn_if_unchanged
from chainrule.methods.chunking import decode, evaluate, loss_and_gradient
from chainrule.optimise import Adam, Momentum, require_whole

PERTURBATION, CROPS = "doodl/perturbation", "doodl/crops"
"""The streams of the noise of iteration k, and of its crops."""
SHUFFLES = "doodl/shuffles"
"""The stream of the orders in which the term of the noise's bounds looks at it."""

LAST = (
    "Through the network in how many of the last steps the gradient goes, which is approximate "
    "then; none: in all of them, which is exact."
)

_BATCH = {"x_T": 1, "memory": 2, "radius": 1, "best_x_T": 1, "terms": 2, "scores": 1}
"""Which dimension of each part of a state is the batch's, where it is not the first."""


@dataclass(frozen=True, eq=False)
class DOODLState(State):
    """All of an optimisation at one moment. P is the number of the solver's latents: EDICT's pair.

    Args:
        x_T: (P, B, C, h, w), the noise to try next.
        memory: (2, P, B, C, h, w), the optimiser's.
        radius: (P, B), the norm of the first draw.
        best_x_T: (P, B, C, h, w), of the best images so far.
        best_latents: (B, C, h, w), likewise.
        best_losses: (B,), likewise: of whole images, not of crops.
        terms: (k, n, B), the n terms of the optimised loss at each iteration so far.
        redrawn: (), 1 once the best noise was drawn again in more steps.
        draws: (), how many draws were tried to find a start; 0 if none was searched for.
    """

    x_T: Tensor
    memory: Tensor
    radius: Tensor
    best_x_T: Tensor
    best_latents: Tensor
    best_losses: Tensor
    terms: Tensor
    redrawn: Tensor
    draws: Tensor
    layout: ClassVar[Mapping[str, str]] = {
        "x_T": "P B C h w",
        "memory": "2 P B C h w",
        "radius": "P B",
        "best_x_T": "P B C h w",
        "best_latents": "B C h w",
        "best_losses": "B",
        "terms": "k n B",
        "redrawn": " int",
        "draws": " int",
    }

    @property
    def iteration(self) -> int:
        return int(self.draws) + self.judged

    @property
    def judged(self) -> int:
        """How many noises the optimisation has judged so far."""
        return len(self.terms)

    @property
    def history(self) -> Tensor:
        """The optimised loss of each image at each iteration so far, (k, B)."""
        return self.terms.sum(dim=1)

    @property
    def numbers(self) -> dict[str, float]:
        best = {"best of whole images": self.best_losses.mean().item()}
        if self.judged:
            return {"loss as optimised": self.history[-1].mean().item(), **best}
        return best if self.draws else {}

    def select(self, rows: Sequence[int]) -> DOODLState:
        """The same for some of the images."""
        index = torch.tensor(rows, device=self.x_T.device)
        parts = {
            name: value if value.ndim == 0 else value.index_select(_BATCH.get(name, 0), index)
            for name, value in self.tensors().items()
        }
        return type(self)(**parts)

    def update(self, rows: Sequence[int], changed: DOODLState) -> DOODLState:
        """This state with some of the images' replaced.

        Of the others, the last terms are repeated for the new row.

        Args:
            rows: The images' numbers.
            changed: Their new state.
        """
        index = torch.tensor(rows, device=self.x_T.device)
        terms = torch.cat([self.terms, self.terms[-1:]])[: len(changed.terms)]
        if len(terms) < len(changed.terms):  # the first iteration: there is nothing to repeat
            terms = changed.terms.new_zeros(*changed.terms.shape[:2], len(self.best_losses))
        new, old = changed.tensors(), replace(self, terms=terms).tensors()
        parts = {
            name: value
            if value.ndim == 0
            else value.index_copy(_BATCH.get(name, 0), index, new[name])
            for name, value in old.items()
        }
        return type(self)(**parts)


FAITHFUL_RATES = {"classifier": 0.05, "text": 0.1, "aesthetic": 1.0, "image": 3.0}
"""Lambda for each kind of loss, of the paper's section 5."""


@dataclass(frozen=True)
class _Tuned:
    """What was chosen for the bundled world, by `benchmarks/vocabulary.py --tune` and its like."""

    start_of: int
    iterations: int
    rate: float
    crops: int


TUNED = {
    "classifier": _Tuned(start_of=32, iterations=7, rate=0.05, crops=4),
    "text": _Tuned(start_of=11, iterations=4, rate=0.01, crops=0),
    "aesthetic": _Tuned(start_of=32, iterations=7, rate=0.05, crops=4),
    "image": _Tuned(start_of=46, iterations=10, rate=0.01, crops=0),
}
"""Towards classes the rate and the crops hardly matter, the number of draws does. For ratings
nothing was chosen without a photo: they have what classes have."""

PICTURED: dict[str, Any] = {
    "iterations": 30,
    "steps": TUNED_STEPS,
    "optimiser": Adam(rate=0.3),
    "mix": None,
    "perturbation": 0.0,
    "crops": 0,
    "last": 5,
}
"""Tuned towards a picture's pixels, from noise: the gradient of the last steps needs no search
(`benchmarks/rare.py --tune`)."""

QUICK: dict[str, Any] = {
    "start_of": 16,
    "iterations": 30,
    "steps": 10,
    "optimiser": Momentum(rate=100.0, clip=None),
    "mix": None,
    "perturbation": 0.0,
    "crops": 4,
    "target": 0.03,
    "final_steps": 50,
}
"""A tenth of the paper's network passes at most (`benchmarks/budget.py --tune`)."""


class DOODL(Method):
    """Optimises the starting noise until the finished image has a lower loss.

    Wallace, Gokul, Ermon & Naik, "End-to-End Diffusion Latent Optimization Improves Classifier
    Guidance", 2023. From noise, or from a photo's exact inversion (EDICT). The gradient is exact,
    through the whole chain; the defaults are the paper's for Stable Diffusion.

    Limits: hundreds of times the cost of an image; a weak loss is fooled rather than followed;
    with few steps or strong guidance EDICT's pair of latents comes apart.
    """

    kind: Literal["doodl"] = "doodl"
    needs = Needs.LOSS
    from_noise = ("start_of",)
    state: ClassVar[type[State]] = DOODLState
    to_change_more: ClassVar[str] = "raise its iterations, or its optimiser's rate"
    judges_last = True
    start_of: int = Field(
        default=1, ge=1, description="How many draws are tried to find a start; 1: the seed's own."
    )
    iterations: int = Field(default=50, ge=0, description="How often the noise is improved, m.")
    steps: Steps = 50
    optimiser: Annotated[Momentum | Adam, Field(discriminator="kind")] = Momentum()
    mix: float | None = Field(
        default=0.93, gt=0, le=1, description="EDICT's p; none: DDIM instead of EDICT."
    )
    turns: Turns = "code"
    coupling: Coupling = "output"
    clip_norm: float | None = Field(
        default=None, gt=0, description="The bound of the norm of an image's gradient."
    )
    perturbation: float = Field(
        default=1e-2, ge=0, description="Standard deviation of the noise added after an update."
    )
    average: bool = Field(default=True, description="Whether EDICT's two latents move as one.")
    renormalise: bool = Field(
        default=True, description="Whether the noise keeps the norm of its first draw."
    )
    whiten: bool = Field(
        default=False, description="Whether the noise keeps the flat spectrum of white noise."
    )
    reparameterise: bool = Field(
        default=False,
        description="Whether the noise is kept so (renormalise, whiten) as a part of the chain, "
        "through which the gradient goes, and not after each update.",
    )
    noise_terms: Mapping[NoiseTerm, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Terms of the loss that are least for noise, each with its weight: norm=0.01 "
        "(ReNO's), moments, spectrum, bounds (DNO's).",
    )
    crops: int = Field(default=16, ge=0, description="How many cutouts are judged; 0: the whole.")
    cut_power: float = Field(default=0.3, gt=0, description="How the cutouts' sizes spread.")
    target: float | None = Field(
        default=None, description="A loss at which an image is good enough and left alone."
    )
    final_steps: int | None = Field(
        default=None,
        ge=1,
        description="The best noise is drawn again in so many steps at the end, and kept where "
        "that is better. For DDIM from noise, whose chains of any length follow one path.",
    )
    adjoint: bool = Field(default=False, description="AdjointDPM's approximate gradient.")
    last: int | None = Field(default=None, ge=1, description=LAST)

    @model_validator(mode="after")
    def _check(self) -> DOODL:
        if self.final_steps is not None and self.mix is not None:
            raise UserError(
                "only DDIM can draw in other steps at the end",
                "omit it, or set mix to none",
                "final_steps",
            )
        if self.mix is None:
            pair = ["turns", "coupling", "average"]
            require_heeded(self, pair, "without a mix, whose pair of latents it is about")
        if not self.crops:
            require_heeded(self, ["cut_power"], "without crops")
        if self.adjoint:
            require_heeded(self, ["last"], "with the adjoint, which goes through all steps")
        if not self.renormalise and not self.whiten:
            require_heeded(self, ["reparameterise"], "without renormalise or whiten")
        return self

    @classmethod
    def bare(cls, **settings: Any) -> DOODL:
        """The loop by itself: DDIM, whole images, and nothing done to the noise in between.

        Args:
            settings: The others.
        """
        return cls(mix=None, perturbation=0.0, renormalise=False, crops=0, **settings)

    @property
    def solver(self) -> Solver:
        """The solver that these settings name."""
        if self.mix is None:
            return DDIM()
        return EDICT(mix=self.mix, turns=self.turns, coupling=self.coupling)

    def count_iterations(self, task: Any) -> int:
        return self._count_draws(task) + self.iterations + 1  # the last update's noise is judged

    def term_names(self, task: Task) -> tuple[str, ...]:
        return (*super().term_names(task), *(f"noise {name}" for name in self.noise_terms))

    def _count_draws(self, task: Any) -> int:
        """How many draws are tried to find a start; 0 where there is nothing to choose among."""
        return self.start_of if self.start_of > 1 and task.photo is None else 0

    def stage(self, task: Any, iteration: int) -> Stage:
        draws = self._count_draws(task)
        if draws and iteration <= draws:
            return Stage(iteration, draws, SEARCH)
        return Stage(min(iteration - draws, self.iterations), self.iterations)

    def gradient(self, keep: int = 0) -> Gradient:
        """How the chain is differentiated, the graphs of `keep` steps being kept."""
        if self.adjoint:
            return Adjoint()
        return Checkpoint(keep) if self.last is None else Truncated(self.last, keep)

    def prepare(self, task: Task) -> Task:
        if self.final_steps is not None and task.photo is not None:
            raise UserError(
                "a photo's inversion cannot be drawn in other steps", "omit them", "final_steps"
            )
        require_whole(self.optimiser)
        prepared: Task = super().prepare(task)
        return prepared

    @property
    def truncated(self) -> int | None:
        return self.last

    def probe(self, steps: int) -> DOODL:
        short = {
            "steps": steps,
            "iterations": 1,
            "start_of": 1,
            "final_steps": None,
            "target": None,
            "last": None,
        }
        return self.model_copy(update=short)

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """The paper's settings, those tuned on the bundled world, or those for little work."""
        kind, photo = situation.loss, situation.photo
        if photo and situation.name == "quick":
            raise UserError(
                "the preset quick draws from noise", "choose faithful or tuned", "preset"
            )
        tuned = TUNED.get(kind, TUNED["classifier"])
        found: dict[str, Any]
        if situation.name == "faithful":
            rate = FAITHFUL_RATES.get(kind, FAITHFUL_RATES["classifier"])
            found = {"optimiser": Momentum(rate=rate), "iterations": 250 if kind == "image" else 50}
        elif situation.name == "quick":
            other = {"optimiser": Adam(rate=tuned.rate), "target": None}  # a rate for any loss
            found = QUICK if kind == "classifier" else QUICK | other
        elif kind == "picture" and not photo:
            found = PICTURED
        else:
            found = {
                "start_of": tuned.start_of,
                "iterations": tuned.iterations,
                "steps": TUNED_STEPS,
                "optimiser": Adam(rate=tuned.rate),
                "mix": None,
                "perturbation": 0.0,
                "crops": tuned.crops,
            }
        if photo:
            found = found | {"renormalise": False, "start_of": 1}
            if situation.name == "tuned":  # by `benchmarks/beauty.py --tune`
                found |= {"mix": TUNED_MIX, "iterations": 15, "optimiser": Adam(rate=0.02)}
        return found

    # --- the algorithm --------------------------------------------------------------------------

    def run(
        self, task: Task, state: DOODLState | None = None, on_step: OnStep | None = None
    ) -> Iterator[DOODLState]:
        """The states after each iteration. Stop whenever you like: each holds the best so far.

        Those after each draw of the search for a start come first, if there is one.
        """
        if state is None or not state.judged:
            for state in self._search(task, state, on_step):  # noqa: B020 - it goes on
                yield state
        state = self.start(task, on_step=on_step) if state is None else state
        while not self.finished(state):
            state = self.advance(task, state, on_step)
            yield state
        if self.final_steps is not None and not state.redrawn:
            yield self.redraw(task, state, on_step)

    def start(
        self, task: Task, x_T: Tensor | Latents | None = None, on_step: OnStep | None = None
    ) -> DOODLState:
        """The state before the first iteration.

        Args:
            task: What is optimised.
            x_T: Where to start: noise (B, C, h, w), or the solver's latents there. None: the
                inversion of the task's photos, or the best of some draws, or the seeds' noise.
            on_step: Told after each step.
        """
        if x_T is None and task.photo is not None:
            x_T = invert_photos(task, steps=self.steps, solver=self.solver, on_step=on_step)
        if x_T is None and self._count_draws(task):
            *_, last = self._search(task, None, on_step)
            return last
        return self.begin(task, task.x_T if x_T is None else x_T)

    def _search(
        self, task: Task, state: DOODLState | None, on_step: OnStep | None
    ) -> Iterator[DOODLState]:
        """The states after each draw of the search for a start, from `state` on."""
        if state is not None and not state.draws:
            return
        begun = None
        if state is not None:
            x_T, losses = state.best_x_T[0], state.best_losses
            begun = Best(state.best_latents, x_T, losses=losses, draws=state.draws)
        count = self._count_draws(task)
        for best in search(task, count, begun, steps=self.steps, on_step=on_step):
            yield self.begin(task, best.x_T, best)

    def begin(self, task: Task, x_T: Tensor | Latents, drawn: Best | None = None) -> DOODLState:
        """The state before the first iteration, from a noise.

        Args:
            task: What is optimised.
            x_T: The noise (B, C, h, w), or the solver's latents there.
            drawn: The best that was found so far, which what is delivered is not worse than.
        """
        pair = torch.stack(self.solver.init(x_T) if isinstance(x_T, Tensor) else x_T).detach()
        batch, names = pair.shape[1], self.term_names(task)
        latents, losses = pair[0], torch.full((batch,), torch.inf, device=pair.device)
        if drawn is not None and drawn.losses is not None:  # the best so far, by DDIM
            latents, losses = drawn.latents.detach(), drawn.losses.detach().to(losses)
        terms = losses.new_zeros(0, len(names), batch)
        memory, none = torch.stack([0 * pair] * 2), torch.zeros((), dtype=torch.long)
        draws = none if drawn is None else drawn.draws
        return DOODLState(pair, memory, _norm(pair), pair, latents, losses, terms, none, draws)

    def finished(self, state: DOODLState) -> bool:
        """Whether all iterations are done, or every image is good enough."""
        if not state.judged:
            return False
        return state.judged > self.iterations or bool(self.good(state.best_losses).all())

    def advance(self, task: Task, state: DOODLState, on_step: OnStep | None = None) -> DOODLState:
        """One iteration of Algorithm 1 for each image that is not good enough yet.

        Args:
            task: What is optimised.
            state: Where it is.
            on_step: Told after each step.
        """
        good = self.good(state.best_losses) if state.judged else state.best_losses.isnan()
        todo = (~good).nonzero().flatten().tolist()
        size = task.plan.batch_size or len(todo)
        if len(todo) == len(task.seeds) <= size:
            return self._advance(task, state, on_step)
        before = state
        for first in range(0, len(todo), size):
            rows = todo[first : first + size]
            moved = self._advance(task.select(rows), before.select(rows), on_step)
            state = state.update(rows, moved)
        return state

    def _advance(self, task: Task, state: DOODLState, on_step: OnStep | None) -> DOODLState:
        """Generate, judge, remember the best, and move the noise."""
        k = state.judged
        done = k >= self.iterations
        begin_phase("walk")
        with torch.set_grad_enabled(not done):
            free = state.x_T.detach().requires_grad_(not done)
            x_T = self._project(free, state.radius) if self.reparameterise else free
            last = self._walk(task, x_T, on_step)
            begin_phase("judge")
            found = loss_and_gradient(task, partial(self.seen_loss, k), last)
            terms, ends, weights = found.terms, [*last], [*found.gradients]
            if self.noise_terms:
                of_noise = self._judge_noise(task, x_T, k)
                terms = torch.cat([terms, of_noise.detach().to(terms)])
                ends, weights = [*ends, of_noise], [*weights, torch.ones_like(of_noise)]
        for name, values in zip(self.term_names(task), terms, strict=True):
            _check(describe_loss(name), values, k, task.seeds)
        state = _remember(task, state, x_T.detach(), last[0].detach(), found.images, terms)
        if done or self.good(state.best_losses).all():
            return state

        begin_phase("back")
        # dL/dx_T = dL/dx_0 dx_0/dx_T
        (gradient,) = torch.autograd.grad(ends, free, weights)
        _check("the gradient", gradient.transpose(0, 1).flatten(1).sum(dim=1), k, task.seeds)
        return self._move(task, state, gradient, k)

    def _walk(self, task: Task, x_T: Tensor, on_step: OnStep | None) -> Latents:
        """The finished latents of the chain from `x_T` (P, B, C, h, w)."""
        solver, latents = self.begin_chain(task, x_T)
        solver = constrain(solver, task.constraints)
        last = sample_state(
            task.denoiser,
            solver.start(latents),
            task.model.schedule.times(self.steps),
            solver=solver,
            gradient=self.gradient(task.plan.keep),
            on_step=on_step,
        )
        return solver.latents(last)

    def begin_chain(self, task: Task, x_T: Tensor) -> tuple[Solver, Latents]:
        """The solver of a chain, and where it starts.

        Args:
            task: What is optimised.
            x_T: (P, B, C, h, w), all that is optimised.
        """
        return self.solver, x_T.unbind()

    def _project(self, x_T: Tensor, radius: Tensor) -> Tensor:
        """The noise (P, B, C, h, w) as it is kept: white, of its first norm (P, B), or free."""
        x_T = whiten(x_T) if self.whiten else x_T
        return project_on_sphere(x_T, radius) if self.renormalise else x_T

    def list_noises(self, x_T: Tensor) -> Latents:
        """What of `x_T` (P, B, C, h, w) should be like noise: tensors (B, n, h, w)."""
        return x_T.unbind()

    def _judge_noise(self, task: Task, x_T: Tensor, k: int) -> Tensor:
        """The terms of the noise in iteration `k`, (n, B): the mean over the pair."""
        shuffles, noises = task.noise.stream(SHUFFLES), self.list_noises(x_T)
        each = [noise_terms(noise, self.noise_terms, shuffles, k) for noise in noises]
        return torch.stack(each).mean(dim=0)

    @torch.no_grad()
    def _move(self, task: Task, state: DOODLState, gradient: Tensor, k: int) -> DOODLState:
        """The state with its noise moved against the `gradient` (P, B, C, h, w)."""
        pair = self.mix is not None
        if pair and self.average:  # dL/dx_T where x = y = x_T is the sum of the two gradients
            gradient = gradient.sum(dim=0).expand_as(gradient)
        if self.clip_norm is not None:  # as torch's clip_grad_norm_ does, for each image
            norm = _norm(gradient)  # the pair's are two of one noise, others are of one chain
            norm = norm if pair else norm.norm(dim=0, keepdim=True)
            scale = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            gradient = gradient * scale[..., None, None, None]
        change, memory = self.optimiser.update(state.x_T, gradient, state.memory, k)
        x_T = state.x_T + change
        if self.perturbation:
            z = task.noise.stream(PERTURBATION).normal(k, x_T.shape[2:])
            x_T = x_T + self.perturbation * z.to(x_T)
        if not self.reparameterise:
            x_T = self._project(x_T, state.radius)
        return replace(state, x_T=x_T, memory=memory)

    def seen_loss(self, k: int, task: Task) -> Loss:
        """The loss that iteration `k` optimises: of its crops, if crops are judged.

        Args:
            k: The iteration.
            task: Whose loss.
        """
        whole = task.require_loss()
        loss = crop(whole, self.crops, self.cut_power) if self.crops else whole
        return loss.replay(task.noise.stream(CROPS), k)

    @torch.no_grad()
    def redraw(self, task: Task, state: DOODLState, on_step: OnStep | None = None) -> DOODLState:
        """The best noise in the final number of steps, kept where that image is the better one.

        So is the seeds' plain image in as many steps, which nothing that is delivered may be worse
        than.

        Args:
            task: What was optimised.
            state: The last one.
            on_step: Told after each step.
        """
        for x_T in (state.best_x_T[0], task.x_T):
            if (x_T == state.best_x_T[0]).all() and state.redrawn:
                continue  # the best noise is that of the plain images
            drawn = generate(task, x_T, self.final_steps or self.steps, on_step=on_step).latents
            losses = evaluate(task, decode(task, drawn))
            state = _keep_better(state, x_T[None], drawn, losses)
            state = replace(state, redrawn=torch.ones_like(state.redrawn))
        return state

    def result(self, task: Task, state: DOODLState) -> Result:
        """The best images so far, with the losses by which they were chosen."""
        latents = state.best_latents
        images = decode(task, latents)
        terms = state.terms if state.judged else None  # none in a search for a start
        noise = noise_statistics(self.list_noises(state.best_x_T)[0])
        found = Result(images, latents, state.best_x_T[0], state.best_losses, terms, numbers=noise)
        if state.judged:
            warn_if_unchanged(self, task, found)
        return found

    def __call__(self, task: Any, on_step: OnStep | None = None) -> Result:
        result: Result = super().__call__(task, on_step)
        return result

    def good(self, losses: Tensor) -> Tensor:
        """Whether each loss is that of an image that is good enough to be left alone."""
        return losses <= (-math.inf if self.target is None else self.target)


@torch.no_grad()
def _remember(
    task: Task, state: DOODLState, x_T: Tensor, latents: Tensor, images: Tensor, terms: Tensor
) -> DOODLState:
    """The state with the best so far. Whole images are compared: of crops, the best are lucky."""
    losses = evaluate(task, images)
    state = _keep_better(state, x_T, latents, losses)
    return replace(state, terms=torch.cat([state.terms, terms[None]]))


def _keep_better(state: DOODLState, x_T: Tensor, latents: Tensor, losses: Tensor) -> DOODLState:
    """The state with the images `latents` (B, C, h, w) of `x_T` where these are the better ones."""
    lower = losses < state.best_losses
    better = lower[:, None, None, None]
    return replace(
        state,
        best_x_T=torch.where(better, x_T, state.best_x_T),
        best_latents=torch.where(better, latents, state.best_latents),
        best_losses=torch.where(lower, losses, state.best_losses),
    )


def _norm(x: Tensor) -> Tensor:
    return x.flatten(-3).norm(dim=-1)


def _check(name: str, values: Tensor, k: int, seeds: tuple[int, ...]) -> None:
    """Raise UserError unless all `values` (B,), the `name` in iteration `k`, are finite."""
    for value, seed in zip(values.tolist(), seeds, strict=True):
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} in iteration {k} (seed {seed})",
                "lower the rate, or use float32",
            )
