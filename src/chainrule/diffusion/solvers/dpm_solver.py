"""DPM-Solver++(2M): Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling", 2022, algorithm 2.

With lambda = log(alpha / sigma), h = lambda_s - lambda_t and r = (the last step's h) / h,

    D = (1 + 1 / 2r) x0(x_t) - 1 / 2r x0(the last x)
    x_s = sigma_s / sigma_t x_t - alpha_s (e^-h - 1) D

The first step has no last one, and a step to sigma = 0 has r = 0: there D = x0(x_t), which
is DDIM. Written as DDIM and what D adds to it, with - alpha_s (e^-h - 1) = alpha_s -
sigma_s / sigma_t alpha_t, nothing is divided by zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.schedule import Schedule
from chainrule.diffusion.solvers.base import Solver, State


@dataclass(frozen=True)
class DPMSolver(Solver):
    """Second order, one network call a step. It remembers (lambda and x0 at the step before)."""

    order = 2
    calls = 1
    reversible = False

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        x, *memory = state
        schedule, (x0, eps) = denoiser.schedule, denoiser(x, t)
        now, then = _log_snr(schedule, t), _log_snr(schedule, s)
        x = schedule.mix(x0, eps, s)
        if not math.isfinite(now):
            return (x,)
        if memory and math.isfinite(then) and memory[0].item() != now != then:
            ratio = (then - now) / (now - memory[0].item())  # 1 / r
            a = schedule.sigma(s) / schedule.sigma(t)
            x = x + (schedule.alpha(s) - a * schedule.alpha(t)) * ratio / 2 * (x0 - memory[1])
        return (x, torch.tensor([now], dtype=torch.float64), x0)


def _log_snr(schedule: Schedule, t: float) -> float:
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    if sigma == 0.0:
        return math.inf
    return -math.inf if alpha == 0.0 else math.log(alpha / sigma)
