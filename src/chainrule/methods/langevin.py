"""Langevin dynamics of the starting noise: Cotter, Roberts, Stuart & White, "MCMC Methods for
Functions: Modifying Old Algorithms to Make Them Faster", 2013, section 4.3.

With phi(u) = loss(x_0(u)) / temperature of the noise u = x_T, g its gradient through the whole
chain, and w ~ N(0, I), the preconditioned Crank-Nicolson Langevin proposal and its acceptance are

    v = ((2 - delta) u - 2 delta g(u) + sqrt(8 delta) w) / (2 + delta)                  eq. 4.11
    rho(u, v) = phi(u) + <v - u, g(u)> / 2 + delta (<u + v, g(u)> + |g(u)|^2) / 4
    P(accept) = min(1, exp(rho(u, v) - rho(v, u)))

It leaves N(0, I) exp(-phi) as it is for any delta; without a loss every proposal is taken, in any
number of dimensions, and delta = 2 is a fresh draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.constraints import constrain
from chainrule.diffusion.gradient import Checkpoint
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.noise_priors import noise_statistics
from chainrule.diffusion.sampling import sample_state
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.errors import UserError
from chainrule.losses.base import Loss, check_finite
from chainrule.memory import begin_phase
from chainrule.methods.base import Method, Needs, Result, State, Steps, Task
from chainrule.methods.chunking import decode, loss_and_gradient, tell_part
from chainrule.metrics import effective_sample_size

PROPOSALS, ACCEPTANCE = "langevin/proposals", "langevin/acceptance"
"""The streams of w, and of what decides, in iteration k."""
WANTED, DECAY = 0.574, 0.6
"""The acceptance rate to which the step is adapted (Roberts & Rosenthal 1998), and how fast the
adaptation dies away, as k^-DECAY."""


@dataclass(frozen=True, eq=False)
class Chains(State):
    """A Markov chain of each seed.

    Args:
        x_T: (B, C, h, w), the samples now.
        latents: (B, C, h, w), of their images.
        gradients: (B, C, h, w), of their losses.
        delta: (B,), the steps.
        accepted: (k, B), 1 where an iteration's proposal was taken.
        terms: (k, n, B), the terms of the loss of the sample of each iteration.
        best_x_T: (B, C, h, w), of the best images so far, proposals that were not taken included.
        best_latents: (B, C, h, w), likewise.
        best_losses: (B,), likewise.
        burn_in: (), how many of the first samples do not count.
    """

    x_T: Tensor
    latents: Tensor
    gradients: Tensor
    delta: Tensor
    accepted: Tensor
    terms: Tensor
    best_x_T: Tensor
    best_latents: Tensor
    best_losses: Tensor
    burn_in: Tensor
    layout: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("x_T", "latents", "gradients", "best_x_T", "best_latents"), "B C h w"),
        **dict.fromkeys(("delta", "best_losses"), "B"),
        "accepted": "k B",
        "terms": "k n B",
        "burn_in": " int",
    }

    @property
    def iteration(self) -> int:
        return len(self.terms)

    @property
    def found(self) -> dict[str, Tensor]:
        """How each chain mixes, (B,), without its burn-in once that is over."""
        first = int(self.burn_in) + 1
        first = first if first < self.iteration else 0
        return {
            "acceptance": self.accepted[first:].mean(dim=0),
            "effective samples": effective_sample_size(self.terms[first:].sum(dim=1)),
            "step": self.delta,
        }

    @property
    def numbers(self) -> dict[str, float]:
        losses = {"loss": self.terms[-1].sum(dim=0), "best": self.best_losses}
        return {name: each.mean().item() for name, each in (losses | self.found).items()}


class Seen(NamedTuple):
    """What is known of some noise u: (n, B), and (B, C, h, w) twice."""

    terms: Tensor
    gradients: Tensor
    latents: Tensor


class Langevin(Method):
    """Draws samples of what the model draws, tilted towards a low loss.

        p(x_T) = N(0, I) exp(-loss / temperature)

    Cotter, Roberts, Stuart & White, "MCMC Methods for Functions", 2013. Each seed is a Markov chain
    of preconditioned Crank-Nicolson Langevin proposals with the exact gradient of the whole chain
    of steps, corrected by Metropolis and Hastings: its samples are images that the model could have
    drawn, at odds of exp(-loss / temperature), and no loss is fooled further than that. A low
    temperature asks for more. The step is adapted during the burn-in and is fixed then.

    Limits: as many times the cost of an image's gradient as there are iterations; neighbouring
    samples are alike ("effective samples" says how many they are worth); a chain may stay where a
    loss has one of several valleys.
    """

    kind: Literal["langevin"] = "langevin"
    needs = Needs.NOISE | Needs.LOSS
    state: ClassVar[type[State]] = Chains
    judges_last = True
    """As of DOODL, one image more is judged than there are iterations: here the first one."""
    temperature: float = Field(
        default=0.01, gt=0, description="What the loss is divided by: lower follows it more."
    )
    iterations: int = Field(default=100, ge=0, description="How many proposals are made.")
    burn_in: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="The share of the iterations in which the step is adapted, whose samples do "
        "not count.",
    )
    delta: float = Field(
        default=0.1, gt=0, le=2, description="The step at first, or for good without a burn-in."
    )
    deliver: Literal["last", "best"] = Field(
        default="last",
        description="Which image is delivered: last, a sample; best, that of the lowest loss.",
    )
    steps: Steps = 50

    def count_iterations(self, task: Any) -> int:
        return self.iterations + 1

    def probe(self, steps: int) -> Langevin:
        return self.model_copy(update={"steps": steps, "iterations": 1})

    def run(
        self, task: Task, state: Chains | None = None, on_step: OnStep | None = None
    ) -> Iterator[Chains]:
        """The chains, at the seeds' noise and after each proposal."""
        if state is None:
            state = self.start(task, on_step)
            yield state
        while state.iteration <= self.iterations:
            state = self.advance(task, state, on_step)
            yield state

    def start(self, task: Task, on_step: OnStep | None = None) -> Chains:
        """The chains at the seeds' noise.

        Args:
            task: Whose chains.
            on_step: Told after each step.
        """
        x_T = task.x_T
        terms, gradients, latents = self._look(task, x_T, on_step)
        losses = terms.sum(dim=0)
        burn_in = torch.tensor(int(self.burn_in * self.iterations))
        delta, taken = torch.full_like(losses, self.delta), torch.ones_like(losses)[None]
        return Chains(
            x_T, latents, gradients, delta, taken, terms[None], x_T, latents, losses, burn_in
        )

    def advance(self, task: Task, state: Chains, on_step: OnStep | None = None) -> Chains:
        """The chains after one more proposal.

        Args:
            task: Whose chains.
            state: Where they are.
            on_step: Told after each step.
        """
        k, u, g = state.iteration, state.x_T, state.gradients / self.temperature
        delta = state.delta[:, None, None, None]
        w = task.noise.stream(PROPOSALS).normal(k, u.shape[1:]).to(u)
        v = ((2 - delta) * u - 2 * delta * g + (8 * delta).sqrt() * w) / (2 + delta)
        seen = self._look(task, v, on_step)
        log = self._rho(state.terms[-1], u, v, g, state.delta)
        log = log - self._rho(seen.terms, v, u, seen.gradients / self.temperature, state.delta)
        chance = log.clamp(max=0).exp()
        drawn = task.noise.stream(ACCEPTANCE).uniform(k, (1,))[:, 0]
        taken = (drawn < chance).to(u.device)
        losses = seen.terms.sum(dim=0)
        state = replace(
            state,
            x_T=_where(taken, v, u),
            latents=_where(taken, seen.latents, state.latents),
            gradients=_where(taken, seen.gradients, state.gradients),
            accepted=torch.cat([state.accepted, taken.to(losses)[None]]),
            terms=torch.cat([state.terms, torch.where(taken, seen.terms, state.terms[-1])[None]]),
            best_x_T=_where(losses < state.best_losses, v, state.best_x_T),
            best_latents=_where(losses < state.best_losses, seen.latents, state.best_latents),
            best_losses=torch.minimum(losses, state.best_losses),
        )
        if k > int(state.burn_in):
            return state
        factor = ((chance - WANTED) * k**-DECAY).exp().to(state.delta)
        return replace(state, delta=(state.delta * factor).clamp(max=2.0))

    def _rho(self, terms: Tensor, u: Tensor, v: Tensor, g: Tensor, delta: Tensor) -> Tensor:
        """rho(u, v), (B,): `terms` are the loss's of the noise `u`, and `g` is phi's gradient.

        In float64, which some devices have not: it is a small difference of large numbers.
        """
        terms, u, v, g, delta = (each.to("cpu", torch.float64) for each in (terms, u, v, g, delta))
        u, v, g = (each.flatten(1) for each in (u, v, g))
        phi, ahead = terms.sum(dim=0) / self.temperature, ((v - u) * g).sum(dim=1)
        return phi + ahead / 2 + delta / 4 * ((u + v + g) * g).sum(dim=1)

    def _look(self, task: Task, x_T: Tensor, on_step: OnStep | None) -> Seen:
        """The loss of the images of `x_T` (B, C, h, w), and its gradient, part by part."""
        parts = task.split(task.plan.batch_size)
        seen = [
            self._look_at(part, x_T[rows], tell_part(on_step, number, len(parts)))
            for number, (rows, part) in enumerate(parts)
        ]
        terms, gradients, latents = zip(*seen, strict=True)
        return Seen(torch.cat(terms, dim=1), torch.cat(gradients), torch.cat(latents))

    def _look_at(self, task: Task, x_T: Tensor, on_step: OnStep | None) -> Seen:
        begin_phase("walk")
        solver = constrain(DDIM(), task.constraints)
        with torch.enable_grad():
            x_T = x_T.detach().requires_grad_()
            last = sample_state(
                task.denoiser,
                solver.init(x_T),
                task.model.schedule.times(self.steps),
                solver=solver,
                gradient=Checkpoint(task.plan.keep),
                on_step=on_step,
            )
            begin_phase("judge")
            found = loss_and_gradient(task, _whole_loss, solver.latents(last))
        seeds = [f"seed {seed}" for seed in task.seeds]
        check_finite(found.terms, task.require_loss().names, seeds)
        begin_phase("back")
        (gradient,) = torch.autograd.grad(solver.latents(last), x_T, found.gradients)
        _check_gradient(gradient, seeds)
        return Seen(found.terms, gradient, solver.final(last).detach())

    def result(self, task: Task, state: Chains) -> Result:
        """The samples, or the best images, with how each chain mixed."""
        x_T, latents, losses = state.x_T, state.latents, state.terms[-1].sum(dim=0)
        if self.deliver == "best":
            x_T, latents, losses = state.best_x_T, state.best_latents, state.best_losses
        numbers = state.found | noise_statistics(x_T)
        return Result(decode(task, latents), latents, x_T, losses, state.terms, numbers=numbers)

    def __call__(self, task: Any, on_step: OnStep | None = None) -> Result:
        result: Result = super().__call__(task, on_step)
        return result


def _whole_loss(task: Task) -> Loss:
    """Of whole images: a density has no luck."""
    return task.require_loss()


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Of each image, `one` (B, C, h, w) where it is chosen, (B,), else the `other`."""
    return torch.where(chosen[:, None, None, None], one, other)


def _check_gradient(gradient: Tensor, images: Sequence[str]) -> None:
    """Raise UserError for the first of the images whose gradient is not finite."""
    for value, image in zip(gradient.flatten(1).sum(dim=1).tolist(), images, strict=True):
        if not math.isfinite(value):
            raise UserError(
                f"the gradient is {value} for {image}", "keep the loss smooth, or use float32"
            )
