"""What a solver is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from chainrule.denoiser import Denoiser

State = tuple[Tensor, ...]
"""All that a solver carries from step to step, each (B, C, h, w). No state hides in a solver."""


class Step(ABC):
    """One solver. `order` is its order of convergence; `calls` its network calls a step.

    `reversible` says that `inverse` undoes `step` exactly, up to rounding, and evaluates the network at the very points
    at which `step` did, in the opposite order. `chainrule.gradient.Reversible` rests on both.
    """

    order: int
    calls: int
    reversible: bool

    @abstractmethod
    def init(self, x: Tensor) -> State:
        """The state that starts (or, going backwards, ends) a chain at `x` (B, C, h, w)."""

    @abstractmethod
    def step(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        """The state at `s`, given the state at `t` > `s`."""

    @abstractmethod
    def inverse(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        """The state at `t`, given the state at `s` < `t`; exact if `reversible`, an approximation otherwise."""

    @abstractmethod
    def final(self, state: State) -> Tensor:
        """The latent (B, C, h, w) that a state stands for."""

    def check(self, state: State) -> None:  # noqa: B027 - most solvers have nothing to warn of
        """Warn, at the end of a chain, if `state` shows that the chain cannot be trusted."""
