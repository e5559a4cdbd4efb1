"""TFG: Ye et al., "TFG: Unified Training-Free Guidance for Diffusion Models", 2024, algorithm 1.

One step from t to s, with f = exp(-loss(decode(.))):

    log f~(x) = log mean_i f(x + gamma sigma_t delta_i),  delta_i ~ N(0, I)    smoothing
    Delta_t = rho_t d log f~(x0(x_t)) / d x_t                                  variance guidance
    Delta_0 = Delta_0 + mu_t d log f~(x0 + Delta_0) / d x0, N_iter times       mean guidance
    x_s = Sample(x_t, x0, eps) + (alpha_s / alpha_t) Delta_t + alpha_s Delta_0
    x_t ~ N(a x_s, sigma_t^2 - (a sigma_s)^2),  a = alpha_t / alpha_s          recurrence

(the paper's sqrt(alpha_t) is our alpha_t / alpha_s, its sqrt(alpha-bar_t) our alpha_t). The sum in
x_s is Sample's own step from another guess,

    x_s = Sample(x_t, x0 + Delta, eps),    Delta = Delta_t / alpha_t + Delta_0

and the recurrence is a time grid that goes back up after each step (`time_grids.repeat_steps`). So
nothing here asks which schedule there is, and flow matching is guided by the same lines. With eps
as it was predicted x_s moves by all of Delta (`fixed="eps"`: TFG, DPS, MPGD, FreeDoM). Where both
parts of the guess are still to make x_t (`fixed="x_t"`: classifier guidance, Universal Guidance,
LGD), eps follows,

    eps' = eps - (alpha_t / sigma_t) Delta

A network's backward pass is needed for Delta_t alone: mean guidance (MPGD) has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser, find_networks
from chainrule.diffusion.guidance.base import differentiate
from chainrule.diffusion.schedule import Schedule
from chainrule.diffusion.solvers.base import State, WrappedSolver
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.errors import UserError

Shape = Literal["constant", "increasing", "decreasing", "variance", "step"]
Normalise = Literal["plain", "loss", "gradient"]
Fixed = Literal["eps", "x_t"]

SMOOTHING = "tfg/smoothing"
"""The stream of the smoothing's noise."""


def _retention(schedule: Schedule, t: float, s: float) -> Tensor:
    """The paper's alpha_t, of the step from t to s: from 0 (noise) to 1 (the image)."""
    return (schedule.alpha(t) / schedule.alpha(s)) ** 2


SHAPES: dict[str, Callable[[Schedule, float, float], Tensor]] = {
    "constant": lambda schedule, t, s: torch.ones((), dtype=torch.float64),
    "increasing": _retention,
    "decreasing": lambda schedule, t, s: 1 - _retention(schedule, t, s),
    "variance": lambda schedule, t, s: schedule.sigma(t) ** 2,
    "step": lambda schedule, t, s: schedule.alpha(t) / schedule.alpha(s),
}
"""How a strength changes along a chain, by name. The first three are TFG's, which has a mean of 1
over the chain (`Ramp.over`). "variance" is what Bayes' rule asks of rho, whose value is then a
multiple of the loss's gradient in the score (classifier guidance). "step" is the same push on every
x_s, as DPS and FreeDoM write it."""
AVERAGED = ("constant", "increasing", "decreasing")


@dataclass(frozen=True)
class Ramp:
    """A strength along a chain: rho_t or mu_t.

    Args:
        value: Its mean over the chain, or of the shapes "variance" and "step" their factor.
        shape: One of `SHAPES`.
        mean: The mean of the shape over the chain, which divides it.
    """

    value: float
    shape: Shape = "constant"
    mean: float = 1.0

    def at(self, schedule: Schedule, t: float, s: float) -> Tensor:
        """The strength of the step from `t` to `s`, a float64 scalar."""
        return self.value * SHAPES[self.shape](schedule, t, s) / self.mean

    def over(self, schedule: Schedule, times: Tensor) -> Ramp:
        """The same whose mean over a chain is its value, if it is one of TFG's.

        Args:
            schedule: What times mean.
            times: Of the chain, (T + 1,), falling.
        """
        if self.shape not in AVERAGED:
            return self
        shape = SHAPES[self.shape]
        pairs = zip(times[:-1].tolist(), times[1:].tolist(), strict=True)
        mean = torch.stack([shape(schedule, t, s) for t, s in pairs]).mean().item()
        return replace(self, mean=mean or 1.0)


NOT_AT_ALL = Ramp(0.0)


@dataclass(frozen=True, eq=False)
class TrainingFree(WrappedSolver):
    """Steps from guesses that a loss has moved. Going up, to repeat a step, it adds noise alone.

    It costs the network a call, and a backward pass if there is a `rho`; the loss is computed and
    differentiated `samples` times for `rho` and `samples` times `pushes` for `mu`.

    Args:
        solver: What makes the steps; with eta 0, it is DDIM's.
        decode: From latents (B, C, h, w) to images (B, 3, H, W) in [0, 1].
        loss: From such images to (B,). One that holds something for each image has
            `select(rows)`; one that asks networks, `networks`.
        rho: Variance guidance: what moves x_t.
        mu: Mean guidance: what moves the guess x0, and needs no backward pass of the network.
        pushes: N_iter, how often `mu` moves it.
        gamma: The smoothing's standard deviation, in units of sigma_t.
        samples: How many numbers the smoothing's mean is made of.
        normalise: What each image's gradient is divided by: 1 ("plain"), the root of its loss
            ("loss", as DPS has it), or its own root mean square ("gradient": then a strength is
            what a latent's number moves by, whatever the loss).
        fixed: What stays while the guess moves, the noise or x_t.
    """

    solver: DDPM
    decode: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor], Tensor]
    rho: Ramp = NOT_AT_ALL
    mu: Ramp = NOT_AT_ALL
    pushes: int = 1
    gamma: float = 0.0
    samples: int = 1
    normalise: Normalise = "plain"
    fixed: Fixed = "eps"

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return find_networks(self.solver, self.decode, self.loss)

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        asked = denoiser if s > t else _Moved(denoiser, self, k, s)
        return self.solver.step(asked, state, k, t, s)

    def draw(self, k: int, x: Tensor) -> list[Tensor]:
        """delta_i of step `k`, each as `x`; none where nothing is smoothed."""
        if not self.gamma:
            return []
        noise = replace(self.solver.noise, name=SMOOTHING)
        draws = range(k * self.samples, (k + 1) * self.samples)
        return [noise.normal(draw, x.shape[1:]).to(x) for draw in draws]

    def energy(self, x0: Tensor, shifts: list[Tensor]) -> Tensor:
        """-log f~(x0), (B,).

        Args:
            x0: Guesses (B, C, h, w).
            shifts: gamma sigma_t delta_i, each as `x0`; none: 0.
        """
        if not shifts:
            return self.loss(self.decode(x0))
        losses = torch.stack([self.loss(self.decode(x0 + shift)) for shift in shifts])
        return math.log(len(shifts)) - torch.logsumexp(-losses, dim=0)

    def gradient(self, energy: Tensor, x: Tensor, *, create_graph: bool) -> Tensor:
        """d energy / d x, (B, C, h, w), normalised.

        Args:
            energy: (B,).
            x: What it was computed from.
            create_graph: Whether the gradient itself is to be differentiated.
        """
        gradient = differentiate(energy, x, create_graph=create_graph)
        if self.normalise == "plain":
            return gradient
        if self.normalise == "loss":
            if (energy < 0).any():
                raise UserError(
                    "a loss below 0 has no root by which its gradient could be divided",
                    "set normalise to gradient or plain, or give a loss that is never below 0",
                    "normalise",
                )
            square = energy[:, None, None, None]
        else:
            square = gradient.square().mean(dim=(1, 2, 3), keepdim=True)
        return gradient / square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()


@dataclass(frozen=True, eq=False)
class _Moved(WrappedDenoiser):
    """What a network says, with its guess moved by a loss.

    Args:
        denoiser: What is asked.
        guidance: What moves it.
        k: The number of the step in its chain.
        s: The time at the step's end.
    """

    denoiser: Denoiser
    guidance: TrainingFree
    k: int
    s: float

    def __call__(self, x: Tensor, t: float) -> Prediction:
        guide, schedule = self.guidance, self.schedule
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        rho, mu = (ramp.at(schedule, t, self.s) for ramp in (guide.rho, guide.mu))
        if alpha == 0.0:  # zero terminal SNR: x_t holds nothing of the image that could be pushed
            rho = torch.zeros_like(rho)
        if sigma == 0.0 and guide.fixed == "x_t":  # where there is no noise x_t is the guess
            rho, mu = torch.zeros_like(rho), torch.zeros_like(mu)
        onward = torch.is_grad_enabled() and (x.requires_grad or bool(self.inputs))
        shifts = [guide.gamma * sigma * delta for delta in guide.draw(self.k, x)]
        with torch.set_grad_enabled(onward or bool(rho)):
            if rho:
                x = x if onward and x.requires_grad else x.detach().requires_grad_()
            x0, eps = self.denoiser(x, t)
            moved = torch.zeros_like(x0)
            if rho:
                energy = guide.energy(x0, shifts)
                moved = -rho / alpha * guide.gradient(energy, x, create_graph=onward)
        if not onward:
            x0, eps = x0.detach(), eps.detach()
        if mu:
            moved = moved + self._descend(x0, mu, shifts, onward)
        if guide.fixed == "x_t" and sigma:
            eps = eps - alpha / sigma * moved
        return Prediction(x0 + moved, eps)

    def _descend(self, x0: Tensor, mu: Tensor, shifts: list[Tensor], onward: bool) -> Tensor:
        """Delta_0."""
        guide, moved = self.guidance, torch.zeros_like(x0)
        for _ in range(guide.pushes):
            with torch.enable_grad():
                place = x0 + moved
                place = place if place.requires_grad else place.requires_grad_()
                energy = guide.energy(place, shifts)
                moved = moved - mu * guide.gradient(energy, place, create_graph=onward)
        return moved
