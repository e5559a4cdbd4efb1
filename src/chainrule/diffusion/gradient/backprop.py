"""Plain backpropagation: every graph is kept."""

from __future__ import annotations

from dataclasses import dataclass

from chainrule.diffusion.gradient.base import Chain, Gradient
from chainrule.diffusion.solvers.base import State


@dataclass(frozen=True)
class Backprop(Gradient):
    """The fewest network calls: one forward and one backward pass for each call of the chain.

    Memory grows with the number of steps.
    """

    def integrate(self, chain: Chain, state: State) -> State:
        return chain.last(state)
