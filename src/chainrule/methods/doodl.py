"""DOODL: Wallace, Gokul, Ermon & Naik, "End-to-End Diffusion Latent Optimization Improves Classifier Guidance", 2023.

Algorithm 1: the starting noise is optimised against a loss on the finished image, through the whole chain.

    x = y = x_T;  (x_0, y_0) = EDICT(x, y)                              eq. 5, 6
    L = (c(crops(x_0)) + c(crops(y_0))) / 2
    g = clip(-lambda dL/dx_T)
    v = 0.9 v + g                                                       eq. 8
    x_T = (x_T + v + N(0, 1e-4 I)), scaled to the norm of the first draw    eq. 9

Any loss on the finished image will do; a photo starts at its exact inversion, a mask keeps the rest (`masked`).
Limits: three to six network passes a step and iteration, hundreds of times a plain image; a loss can be fooled.

Where the paper and its public code differ, this follows the paper, and the other is a setting:

- The paper's perturbation N(0, 1e-4 I) is a standard deviation of 1e-2; the code uses 1e-4 (`perturbation`).
- The code takes the gradient of the pair's mean, which halves it once more: halve `rate` for that.
- The code does not renormalise when a photo is edited (`renormalise`): its inversion has not the norm of noise.
- The printed EDICT keeps its order, the code alternates (`alternate`).

- The paper averages the pair after each update. What is averaged here is the update, so that the pair moves as one
  (`average`): from a draw, where x = y, that is the same; from the inversion of a photo, where they differ a little,
  averaging the latents themselves would lose the photo.

The clip was chosen for Stable Diffusion's 64x64 latents. Other solvers and optimisers work as well, at half the network
calls and without a pair that can drift: `DDIM` with `Adam` is what the bundled model's preset uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from chainrule.diffusion.constraints import constrain
from chainrule.errors import UserError
from chainrule.diffusion.gradient.adjoint import Adjoint
from chainrule.diffusion.gradient.base import Gradient, OnStep
from chainrule.diffusion.gradient.checkpoint import Checkpoint
from chainrule.losses.base import Loss
from chainrule.losses.cutouts import cropped
from chainrule.methods.base import Result, Task, decoded, generate, invert_photos, loss_and_gradient, scored, within_memory
from chainrule.methods.best_of import best_of
from chainrule.optimise import Adam, Momentum
from chainrule.diffusion.sampling import sample_state
from chainrule.diffusion.solvers.base import State, Solver
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.solvers.edict import EDICT

PERTURBATION, CROPS = 1 << 20, 1 << 21
"""The first draw of each kind of randomness; iteration k uses draw k after it."""


class Doodl(BaseModel):
    """The settings of DOODL; the defaults are the paper's for Stable Diffusion.

    `start_of` is how many draws of the noise are tried to find a start (1: the seed's own, as in the paper),
    `iterations` is m, `steps` is T, `mix` is EDICT's p (None: DDIM instead of EDICT), `perturbation` the standard
    deviation of the noise added after each update, `average` moves EDICT's two latents as one, `renormalise` keeps
    their norm that of the first draw (for photos, the paper's code does not), `crops` is how many cutouts are loss_and_gradient
    (0: the whole image, which losses of places always see), `target` a loss at which an image is good enough and
    left alone, `final_steps` the steps in which the best noise is drawn once more at the end (None: it is not; for DDIM
    from noise only, whose chains of any length follow one path); `adjoint` takes AdjointDPM's approximate gradient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    start_of: int = Field(default=1, ge=1)
    iterations: int = Field(default=50, ge=0)
    steps: int = Field(default=50, ge=1)
    optimiser: Annotated[Momentum | Adam, Field(discriminator="kind")] = Momentum()
    mix: float | None = Field(default=0.93, gt=0, le=1)
    alternate: bool = True
    perturbation: float = Field(default=1e-2, ge=0)
    average: bool = True
    renormalise: bool = True
    crops: int = Field(default=16, ge=0)
    cut_power: float = 0.3
    target: float | None = None
    final_steps: int | None = Field(default=None, ge=1)
    adjoint: bool = False

    @property
    def solver(self) -> Solver:
        """The solver that these settings name."""
        return DDIM() if self.mix is None else EDICT(mix=self.mix, alternate=self.alternate)

    def gradient(self, keep: int = 0) -> Gradient:
        """How the chain is differentiated, the graphs of `keep` steps being kept."""
        return Adjoint() if self.adjoint else Checkpoint(keep)


class DoodlState(NamedTuple):
    """All of a DOODL run at one moment, as tensors: what is written to disk, and what a resumed run starts from.

    `x_T` (P, B, C, h, w) is the noise to try next, of each of the solver's P latents (DDIM has one, EDICT a pair),
    `memory` (2, P, B, C, h, w) the optimiser's, `radius` (P, B) the norm of the first draw; `best_x_T` (as `x_T`),
    `best_latents` (B, C, h, w) and `best_losses` (B,) (of whole images, not of crops) belong to the best images so far;
    `terms` (k, n, B) holds the n terms of the optimised loss of each image at each iteration so far.
    """

    x_T: Tensor
    memory: Tensor
    radius: Tensor
    best_x_T: Tensor
    best_latents: Tensor
    best_losses: Tensor
    terms: Tensor

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return len(self.terms)

    @property
    def history(self) -> Tensor:
        """The optimised loss of each image at each iteration so far, (k, B)."""
        return self.terms.sum(dim=1)

    def select(self, rows: Sequence[int]) -> DoodlState:
        """The same for some of the images."""
        index = torch.tensor(rows, device=self.x_T.device)
        return DoodlState(*(part.index_select(d, index) for part, d in zip(self, _BATCH, strict=True)))

    def updated(self, rows: Sequence[int], changed: DoodlState) -> DoodlState:
        """This state with some of the images' replaced; of the others, the last terms are repeated for the new row."""
        index = torch.tensor(rows, device=self.x_T.device)
        known = self._replace(terms=torch.cat([self.terms, self.terms[-1:]])[: len(changed.terms)])
        if len(known.terms) < len(changed.terms):  # the first iteration: there is nothing to repeat
            known = known._replace(terms=changed.terms.new_zeros(*changed.terms.shape[:2], len(self.best_losses)))
        pairs = zip(known, changed, _BATCH, strict=True)
        return DoodlState(*(old.index_copy(d, index, new) for old, new, d in pairs))


_BATCH = (1, 2, 1, 1, 0, 0, 2)
"""Which dimension of each part of a DoodlState is the batch's."""


def start(task: Task, settings: Doodl, x_T: Tensor | State | None = None, on_step: OnStep | None = None) -> DoodlState:
    """The state before the first iteration: at `x_T`, or at the inversion of the task's photos, or at its noise.

    `x_T` is the noise (B, C, h, w), or the solver's state at the noisy end, as an inversion gives it.
    """
    if settings.final_steps is not None and (settings.mix is not None or task.photo is not None):
        raise UserError("only DDIM from noise can draw with other steps at the end: leave final_steps away")
    if x_T is None and task.photo is not None:
        x_T = invert_photos(task, steps=settings.steps, solver=settings.solver, on_step=on_step)
    if x_T is None:
        several = settings.start_of > 1
        x_T = best_of(task, settings.start_of, steps=settings.steps, on_step=on_step).x_T if several else task.x_T
    pair = torch.stack(settings.solver.init(x_T) if isinstance(x_T, Tensor) else x_T).detach()
    batch, names = pair.shape[1], task.wanted().names
    worst = torch.full((batch,), torch.inf, device=pair.device)
    terms = worst.new_zeros(0, len(names), batch)
    return DoodlState(pair, torch.stack([0 * pair] * 2), _norm(pair), pair, pair[0], worst, terms)


def advance(task: Task, settings: Doodl, state: DoodlState, on_step: OnStep | None = None) -> DoodlState:
    """One iteration of Algorithm 1 for each image that is not good enough yet."""
    todo = (~_good(settings, state.best_losses)).nonzero().flatten().tolist()
    size = task.plan.together or len(todo)
    if len(todo) == len(task.seeds) <= size:
        return _advance(task, settings, state, on_step)
    before = state
    for first in range(0, len(todo), size):
        rows = todo[first : first + size]
        state = state.updated(rows, _advance(task.select(rows), settings, before.select(rows), on_step))
    return state


def _advance(task: Task, settings: Doodl, state: DoodlState, on_step: OnStep | None) -> DoodlState:
    """Generate, judge, remember the best, and move the noise."""
    k, solver, noise = state.iteration, constrain(settings.solver, task.constraints), task.noise
    done = k >= settings.iterations

    with torch.set_grad_enabled(not done):
        x_T = state.x_T.detach().requires_grad_(not done)
        times, gradient = task.model.schedule.times(settings.steps), settings.gradient(task.plan.keep)
        begun = solver.begin(x_T.unbind())
        last = solver.latents(sample_state(task.denoiser, begun, times, solver=solver, gradient=gradient, on_step=on_step))
        terms, of_last, images = loss_and_gradient(task, partial(seen_in, settings, k), last)
    for name, values in zip(task.wanted().names, terms, strict=True):
        _check(f"the loss {name}", values, k, task.seeds)

    with torch.no_grad():  # the best is chosen by whole images: of crops, the best are the luckiest
        scores = scored(task, images, lambda task: task.wanted().replayed(task.noise, CROPS))
    latents = last[0].detach()
    better = (scores < state.best_losses)[:, None, None, None]
    best = {
        "best_x_T": torch.where(better, state.x_T, state.best_x_T),
        "best_latents": torch.where(better, latents, state.best_latents),
        "best_losses": torch.minimum(scores, state.best_losses),
        "terms": torch.cat([state.terms, terms[None]]),
    }
    if done or _good(settings, best["best_losses"]).all():
        return state._replace(**best)

    (of_x_T,) = torch.autograd.grad(last, x_T, of_last)  # dL/dx_T = dL/dx_0 dx_0/dx_T
    _check("the gradient", of_x_T.transpose(0, 1).flatten(1).sum(dim=1), k, task.seeds)
    if settings.average:  # dL/dx_T where x = y = x_T is the sum of the two gradients
        of_x_T = of_x_T.sum(dim=0).expand_as(of_x_T)
    change, memory = settings.optimiser.update(state.x_T, of_x_T, state.memory, k)
    x_T = state.x_T + change
    if settings.perturbation:
        x_T = x_T + settings.perturbation * noise.normal(PERTURBATION + k, x_T.shape[2:]).to(x_T)
    if settings.renormalise:
        x_T = x_T * (state.radius / _norm(x_T))[..., None, None, None]
    return state._replace(x_T=x_T, memory=memory, **best)


def seen_in(settings: Doodl, k: int, task: Task) -> Loss:
    """The loss that iteration `k` optimises: of the crops of that iteration, if crops are loss_and_gradient."""
    whole = task.wanted()
    loss = cropped(whole, settings.crops, settings.cut_power) if settings.crops else whole
    return loss.replayed(task.noise, CROPS + k)


def finished(settings: Doodl, state: DoodlState) -> bool:
    """Whether all iterations are done (the last update's noise is loss_and_gradient too), or every image is good enough."""
    return state.iteration > settings.iterations or bool(_good(settings, state.best_losses).all())


def run(task: Task, settings: Doodl, state: DoodlState, on_step: OnStep | None = None) -> Iterator[DoodlState]:
    """The states after each iteration, until all are done. Stop whenever you like: each holds the best so far."""
    while not finished(settings, state):
        state, task = within_memory(task, lambda task, state=state: advance(task, settings, state, on_step))  # type: ignore[misc]
        yield state


def doodl(
    task: Task,
    settings: Doodl | None = None,
    *,
    x_T: Tensor | State | None = None,
    on_iteration: Callable[[DoodlState], None] | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """The best images that DOODL finds for the task's seeds.

    Starts at the seeds' noise, at the inversion of the task's photos if it has any, or at `x_T`: noise (B, C, h, w), or
    the solver's state. `on_iteration` is told the state after each iteration. Raises UserError if the loss or the
    gradient stops being finite.
    """
    settings = settings or Doodl()
    last, task = within_memory(task, lambda task: start(task, settings, x_T, on_step))
    for state in run(task, settings, last, on_step):
        last = state
        if on_iteration:
            on_iteration(state)
    return within_memory(task, lambda task: result(task, settings, last, on_step))[0]


@torch.no_grad()
def result(task: Task, settings: Doodl, state: DoodlState, on_step: OnStep | None = None) -> Result:
    """The best images so far, with the losses by which they were chosen; drawn once more if the settings say so."""
    if settings.final_steps is None:
        best = Result(decoded(task, state.best_latents), state.best_latents, state.best_x_T[0], state.best_losses)
    else:
        best = generate(task, task.denoiser, state.best_x_T[0], settings.final_steps, on_step=on_step)
    return replace(best, history=state.history, terms=state.terms)


def _good(settings: Doodl, losses: Tensor) -> Tensor:
    """Whether each loss is that of an image that is good enough to be left alone."""
    return losses <= (-math.inf if settings.target is None else settings.target)


def _norm(x: Tensor) -> Tensor:
    return x.flatten(-3).norm(dim=-1)


def _check(name: str, values: Tensor, k: int, seeds: tuple[int, ...]) -> None:
    """Raise UserError unless all `values` (B,), the `name` in iteration `k`, are finite."""
    for value, seed in zip(values.tolist(), seeds, strict=True):
        if not math.isfinite(value):
            raise UserError(f"{name} is {value} in iteration {k} (seed {seed}): lower the rate, or use float32")
