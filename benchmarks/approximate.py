"""Cheaper gradients of a DDIM chain than the exact one: what is left out of each step's Jacobian.

    x_s = a x_t + b F(x_t)        dL/dx_t = a dL/dx_s + b J^T dL/dx_s,    J = dF/dx_t

The exact gradient costs three passes a step: the walk, F again with its graph, J^T backwards.

- `every`: J^T dL/dx_s is computed in every n-th step, and its nearest value stands for the others.
- `branch`: of classifier-free guidance F = F_n + w (F_p - F_n), J = w J_p (the unconditional branch
  detached) or J = J_p (the branches' Jacobians taken for equal): a step costs two passes.

That J = 0 in all but the last steps is `chainrule.Truncated`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.base import Chain, Gradient
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.diffusion.solvers.base import State


@dataclass(frozen=True)
class Approximate(Gradient):
    """A gradient from which something is left out.

    Args:
        every: In one of how many steps the network is differentiated.
        branch: Through which of the guidance pair: both, or the prompt's alone, its Jacobian
            taken w times ("detached") or once ("alike").
    """

    every: int = 1
    branch: Literal["both", "detached", "alike"] = "both"

    def integrate(self, chain: Chain, state: State) -> State:
        (x,) = state
        return (_Apart.apply(self, chain, x),)

    def count_passes(self, steps: int) -> float:
        """The passes of a chain there and back, a guidance pair being one.

        Args:
            steps: Of the chain.
        """
        asked = -(-steps // self.every)
        return steps + asked * (2.0 if self.branch == "both" else 1.0)

    def pull(self, denoiser: Denoiser, x: Tensor, t: float, gradient: Tensor) -> Tensor:
        """J^T gradient, (B, C, h, w).

        Args:
            denoiser: F.
            x: Where (B, C, h, w).
            t: Its time.
            gradient: dL/dx_s, likewise.
        """
        weight = 1.0
        if self.branch != "both":
            pair = cast(ClassifierFree, denoiser)
            weight = pair.guidance_scale if self.branch == "detached" else 1.0
            denoiser = pair.denoiser
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (pulled,) = torch.autograd.grad(denoiser.output(leaf, t), leaf, gradient)
        return weight * pulled


class _Apart(torch.autograd.Function):
    """The walk without a graph, and the way back that its `Approximate` knows."""

    @staticmethod
    def forward(ctx: Any, how: Approximate, chain: Chain, x: Tensor) -> Tensor:
        ctx.how, ctx.chain = how, chain
        ctx.states = [reached for (reached,) in chain.walk((x,))]
        return cast(Tensor, ctx.states[-1].clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:  # type: ignore[override]
        how, chain, steps = ctx.how, ctx.chain, len(ctx.chain)
        denoiser, pulled, base = chain.denoiser, torch.zeros_like(gradient), gradient
        for back in range(steps):
            i = steps - 1 - back
            t, s = chain.times[i], chain.times[i + 1]
            a, b = denoiser.parameterization.coefficients(denoiser.schedule, t, s)
            if back % how.every == 0:
                pulled, base = how.pull(denoiser, ctx.states[i], t, gradient), gradient
            gradient = a * gradient + b * _grow(base, gradient) * pulled
        return None, None, gradient


def _grow(base: Tensor, gradient: Tensor) -> Tensor:
    """How much of `base` there is in `gradient`, of each image: by least squares, (B, 1, 1, 1)."""
    across = (base * gradient).sum(dim=(1, 2, 3), keepdim=True)
    return across / base.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
