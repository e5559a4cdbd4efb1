"""AdjointDPM: Pan et al., "Adjoint Sensitivity Method for Gradient Backpropagation of DPMs", 2024.

The sampling chain solves dy/du = f(y, u, phi) (`chainrule.diffusion.ode`). With a = dL/dy,
one more ODE gives every gradient, solved from the image back to the noise together with y
itself (Algorithm 3, eq. 28; Chen et al. 2018):

    dy/du = f        da/du = -a df/dy        dg/du = -a df/dphi
    g = 0 at the image, dL/dphi at the noise

Two forms go by that name. Between two times of the chain both solve backwards; at each of these
times the one takes y anew from what the chain visited (`reset`, as the paper's public code has it,
which gives torchdiffeq all times), the other goes on from its own y, from the last latent alone.

**This is not the gradient of the chain**: it is the gradient of the ODE that the chain
approximates, computed with a second approximation. It comes near the exact one as the steps
become many; `Checkpoint` over the same solver is exact at the same number of network calls.
`benchmarks/adjoint.py` measures the angle between the two. On the bundled model, a classifier's
loss, no guidance, 4 seeds, the cosine for x_T at 10, 28 and 50 steps:

    Euler    reset 0.91  0.98  0.99    from the last latent alone 0.84  0.97  0.98
    Heun     reset 0.99  1.00  1.00    from the last latent alone 0.95  1.00  1.00
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
    refuse_second_order,
    refuse_transforms,
    remember_autocast,
    require_unrelated,
    wants_gradient,
)
from chainrule.diffusion.gradient.replay import RandomNumbers, Reads, find_unnamed, require_named
from chainrule.diffusion.ode import ODE, ProbabilityFlow
from chainrule.diffusion.solvers.base import ODESolver, State, WrappedSolver
from chainrule.diffusion.solvers.runge_kutta import Euler
from chainrule.errors import UserError


@dataclass(frozen=True)
class Adjoint(Gradient):
    """The continuous adjoint's gradient of x_T, conditioning and weights: **approximate**.

    What goes back has the size of all that wants a gradient. A network that draws random numbers
    (dropout in training mode) draws on the way back from one time to the one before what it drew
    there; as it is asked at other points, in another order, that is like the step that ran, not
    equal to it.

    Args:
        solver: Goes back along the chain's times; None: the chain's own, or Euler where that is
            not one for any ODE.
        reset: Keep the latents of the chain, tiny as they are, and start from them at each time.
            Otherwise nothing is kept but the last latent, and y is solved backwards all the way.
    """

    solver: ODESolver | None = None
    reset: bool = True

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
        refuse_transforms("Adjoint")
        require_unrelated(inputs)
        own = solver if isinstance(solver, ODESolver) else Euler()
        back = self.solver or own
        return solver.init(_Backwards.apply(chain, back, self.reset, state[0], *inputs))


class _Backwards(torch.autograd.Function):
    """The chain as one node of the autograd graph, with the ODE above as its backward pass."""

    @staticmethod
    def forward(
        ctx: Any, chain: Chain, solver: ODESolver, reset: bool, x: Tensor, *inputs: Tensor
    ) -> Tensor:
        ctx.chain, ctx.solver, ctx.inputs = chain, solver, inputs
        ctx.precision, start = remember_autocast(x.device.type), chain.solver.init(x.detach())
        ctx.reads, ctx.random = Reads(chain, (x,)), RandomNumbers(chain, start)
        ctx.visited = []  # the latents at each time, the last one first; without reset, that one
        with ctx.precision():
            for state in chain.walk(start):
                ctx.random.remember()
                ctx.visited = [chain.solver.final(state), *(ctx.visited if reset else ())]
        ctx.reads.settle()
        last: Tensor = ctx.visited[0]
        return last.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order("Adjoint", (gradient,))
        ctx.reads.require_unchanged()
        chain: Chain = ctx.chain
        flow: ProbabilityFlow = ctx.solver.flow(chain.denoiser)
        times = list(chain.times[::-1])
        if chain.backwards:  # an inversion starts at the least noise that the network knows
            times = [chain.denoiser.schedule.network_time(t) for t in chain.times]
        one = torch.ones((), dtype=torch.float64)
        scale = [flow.leave(one, t).item() for t in (times[0], times[-1])]
        augmented = _Augmented(flow, gradient.shape, ctx.inputs, ctx.reads)
        a, totals = scale[0] * gradient, [torch.zeros_like(value) for value in ctx.inputs]
        y, memory = flow.enter(ctx.visited[0], times[0]), ()
        for i, (t, s) in enumerate(pairwise(times)):
            if i < len(ctx.visited):
                y = flow.enter(ctx.visited[i], t)
            z = augmented.join(y, a, totals)
            with ctx.precision(), ctx.random.replay(len(times) - 2 - i):
                z, memory = ctx.solver.integrate(augmented, z, memory, t, s)
            y, a, totals = augmented.split(z)
        found = (total.to(value.dtype) for total, value in zip(totals, ctx.inputs, strict=True))
        return (None, None, None, a / scale[1], *found)


@dataclass(eq=False)
class _Augmented(ODE):
    """The ODE of (y, a, g) as one flat tensor; g has a part for each of the `inputs`."""

    ode: ProbabilityFlow
    shape: tuple[int, ...]
    inputs: Sequence[Tensor]
    reads: Reads

    def clock(self, t: float) -> float:
        return self.ode.clock(t)

    def time(self, u: float) -> float:
        return self.ode.time(u)

    def slope(self, y: Tensor, t: float) -> Tensor:
        latent, a, _ = self.split(y)
        with torch.enable_grad():
            leaf = latent.detach().requires_grad_()
            f = self.ode.slope(leaf, t)
        unnamed = find_unnamed((f,), (leaf, *self.inputs), self.reads)
        of_y, *of_inputs = torch.autograd.grad(
            f, (leaf, *self.inputs), a, allow_unused=True, materialize_grads=True
        )
        f = f.detach()  # and with it the graph goes
        require_named(unnamed, self.reads)
        return self.join(f, -of_y, [-gradient for gradient in of_inputs])

    def join(self, latent: Tensor, a: Tensor, totals: Sequence[Tensor]) -> Tensor:
        """(y, a, g) as one tensor."""
        return torch.cat([part.flatten().to(latent.dtype) for part in (latent, a, *totals)])

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """One tensor as (y, a, g)."""
        shapes = [self.shape, self.shape, *(tuple(value.shape) for value in self.inputs)]
        parts = z.split([prod(shape) for shape in shapes])
        latent, a, *totals = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        return latent, a, totals
