"""AdjointDPM: Pan et al., "Adjoint Sensitivity Method for Gradient Backpropagation of DPMs", 2024.

The sampling chain solves dy/du = f(y, u, phi) (`chainrule.diffusion.ode`). With a = dL/dy,
one more ODE gives every gradient, solved from the image back to the noise together with y
itself (Algorithm 3, eq. 28; Chen et al. 2018):

    dy/du = f        da/du = -a df/dy        dg/du = -a df/dphi
    g = 0 at the image, dL/dphi at the noise

**This is not the gradient of the chain**: it is the gradient of the ODE that the chain
approximates, computed with a second approximation. It comes near the exact one as the steps
become many; `Checkpoint` over the same solver is exact at the same number of network calls.
`benchmarks/adjoint.py` measures the angle between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.gradient.base import (
    Chain,
    Gradient,
    drop_repeats,
    remember_autocast,
    require_unrelated,
    wants_gradient,
)
from chainrule.diffusion.ode import ODE, ProbabilityFlow
from chainrule.diffusion.solvers.base import ODESolver, State, WrappedSolver
from chainrule.diffusion.solvers.runge_kutta import Euler
from chainrule.errors import UserError


@dataclass(frozen=True)
class Adjoint(Gradient):
    """The continuous adjoint's gradient of x_T, conditioning and weights: **approximate**.

    Nothing is kept of the chain but its last latent. What goes back has the size of all that wants
    a gradient.

    Args:
        solver: Goes back along the chain's times; None: the chain's own, or Euler where that is
            not one for any ODE.
    """

    solver: ODESolver | None = None

    def integrate(self, chain: Chain, state: State) -> State:
        solver = chain.solver
        if len(state) != 1 or solver.rises or isinstance(solver, WrappedSolver):
            raise UserError(
                f"Adjoint cannot differentiate {type(solver).__name__}, whose chain is not that of "
                "an ODE of one latent",
                "use Checkpoint(), which is exact",
            )
        inputs = drop_repeats(chain.denoiser.inputs)
        if not wants_gradient((*state, *inputs)):
            return chain.last(state)
        require_unrelated(inputs)
        own = solver if isinstance(solver, ODESolver) else Euler()
        return solver.init(_Backwards.apply(chain, self.solver or own, state[0], *inputs))


class _Backwards(torch.autograd.Function):
    """The chain as one node of the autograd graph, with the ODE above as its backward pass."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, solver: ODESolver, x: Tensor, *inputs: Tensor) -> Tensor:
        ctx.chain, ctx.solver = chain, solver
        ctx.precision = remember_autocast(x.device.type)
        with ctx.precision():
            last = chain.solver.final(chain.last(chain.solver.init(x.detach())))
        ctx.save_for_backward(last, *inputs)
        return last.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        last, *inputs = ctx.saved_tensors
        chain: Chain = ctx.chain
        flow = ctx.solver.flow(chain.denoiser)
        times = list(chain.times[::-1])
        if chain.backwards:  # an inversion starts at the least noise that the network knows
            times = [chain.denoiser.schedule.network_time(t) for t in chain.times]
        one = torch.ones((), dtype=torch.float64)
        scale = [flow.leave(one, t).item() for t in (times[0], times[-1])]
        augmented = _Augmented(flow, last.shape, inputs)
        nothing = [torch.zeros_like(value) for value in inputs]
        z = augmented.join(flow.enter(last, times[0]), scale[0] * gradient, nothing)
        memory: State = ()
        with ctx.precision():
            for t, s in pairwise(times):
                z, memory = ctx.solver.integrate(augmented, z, memory, t, s)
        _, a, totals = augmented.split(z)
        found = (total.to(value.dtype) for total, value in zip(totals, inputs, strict=True))
        return (None, None, a / scale[1], *found)


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
        of_y, *of_inputs = torch.autograd.grad(
            f, (leaf, *self.inputs), a, allow_unused=True, materialize_grads=True
        )
        return self.join(f.detach(), -of_y, [-gradient for gradient in of_inputs])

    def join(self, latent: Tensor, a: Tensor, totals: Sequence[Tensor]) -> Tensor:
        """(y, a, g) as one tensor."""
        return torch.cat([part.flatten().to(latent.dtype) for part in (latent, a, *totals)])

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """One tensor as (y, a, g)."""
        shapes = [self.shape, self.shape, *(tuple(value.shape) for value in self.inputs)]
        parts = z.split([prod(shape) for shape in shapes])
        latent, a, *totals = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        return latent, a, totals
