"""AdjointDPM: Pan et al., "AdjointDPM: Adjoint Sensitivity Method for Gradient Backpropagation of DPMs", 2024.

The sampling chain solves dy/du = f(y, u, phi) (`chainrule.diffusion.ode`). With a = dL/dy, one more ODE gives every gradient,
solved from the image back to the noise together with y itself (Algorithm 3, eq. 28; Chen et al. 2018):

    dy/du = f        da/du = -a df/dy        dg/du = -a df/dphi,    g = 0 at the image, dL/dphi at the noise

**This is not the gradient of the chain**: it is the gradient of the ODE that the chain approximates, computed with a
second approximation. It comes near the exact one as the steps become many; `Checkpoint` over the same solver is exact
at the same number of network calls. `benchmarks/adjoint.py` measures the angle between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.diffusion.gradient.base import Chain, Gradient, require_unrelated, distinct, precision
from chainrule.diffusion.ode import ODE, ProbabilityFlow
from chainrule.diffusion.solvers.base import ODESolver, State
from chainrule.diffusion.solvers.runge_kutta import Euler


@dataclass(frozen=True)
class Adjoint(Gradient):
    """The continuous adjoint's gradient of x_T, conditioning and weights: **approximate**.

    Nothing is kept of the chain but its last latent. `solver` goes back (None: the chain's own, or Euler where that is
    not one for any ODE) along the chain's times. What it carries has the size of all that wants a gradient.
    """

    solver: ODESolver | None = None

    def integrate(self, chain: Chain, state: State) -> State:
        if len(state) != 1:
            raise UserError(
                f"Adjoint cannot differentiate {type(chain.solver).__name__}, whose state is more than a latent: use "
                "Checkpoint(), which is exact"
            )
        inputs = distinct(chain.denoiser.inputs)
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*state, *inputs))):
            return chain.last(state)
        require_unrelated(inputs)
        own = chain.solver if isinstance(chain.solver, ODESolver) else Euler()
        return chain.solver.init(_Backwards.apply(chain, self.solver or own, state[0], *inputs))


class _Backwards(torch.autograd.Function):
    """The chain as one node of the autograd graph, with the ODE above as its backward pass."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, solver: ODESolver, x: Tensor, *inputs: Tensor) -> Tensor:
        ctx.chain, ctx.solver, ctx.precision = chain, solver, precision(x.device.type)
        with ctx.precision():
            last = chain.solver.final(chain.last(chain.solver.init(x.detach())))
        ctx.save_for_backward(last, *inputs)
        return last.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        last, *inputs = ctx.saved_tensors
        flow = ctx.solver.flow(ctx.chain.denoiser)
        # an inversion starts at the first timestep, the least noise that the network knows
        times = [max(t, 0.0) for t in ctx.chain.times] if ctx.chain.backwards else ctx.chain.times[::-1]
        scale = [flow.leave(torch.ones((), dtype=torch.float64), t).item() for t in (times[0], times[-1])]
        augmented = _Augmented(flow, last.shape, inputs)
        z = augmented.joined(flow.enter(last, times[0]), scale[0] * gradient, [torch.zeros_like(v) for v in inputs])
        memory: State = ()
        with ctx.precision():
            for t, s in pairwise(times):
                z, memory = ctx.solver.integrate(augmented, z, memory, t, s)
        _, a, totals = augmented.split(z)
        return (None, None, a / scale[1], *(g.to(v.dtype) for g, v in zip(totals, inputs, strict=True)))


@dataclass(eq=False)
class _Augmented(ODE):
    """The ODE of (y, a, g) as one flat tensor; g has a part for each of the `inputs`."""

    ode: ProbabilityFlow
    shape: tuple[int, ...]
    inputs: Sequence[Tensor]

    def clock(self, t: float) -> float:
        return self.ode.clock(t)

    def time(self, u: float) -> float:
        return self.ode.time(u)

    def slope(self, y: Tensor, t: float) -> Tensor:
        latent, a, _ = self.split(y)
        with torch.enable_grad():
            leaf = latent.detach().requires_grad_()
            f = self.ode.slope(leaf, t)
        of_y, *of_inputs = torch.autograd.grad(f, (leaf, *self.inputs), a, allow_unused=True, materialize_grads=True)
        return self.joined(f.detach(), -of_y, [-gradient for gradient in of_inputs])

    def joined(self, latent: Tensor, a: Tensor, totals: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.flatten().to(latent.dtype) for part in (latent, a, *totals)])

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        shapes = [self.shape, self.shape, *(tuple(value.shape) for value in self.inputs)]
        latent, a, *totals = (
            part.view(shape) for part, shape in zip(z.split([prod(shape) for shape in shapes]), shapes, strict=True)
        )
        return latent, a, totals
