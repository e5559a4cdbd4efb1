"""What a solver is: one step of the sampling chain, from time t to time s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chainrule.diffusion.batch import PerImage
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.ode import ODE, Coordinates, ProbabilityFlow, choose_coordinates
from chainrule.errors import UserError

State = tuple[Tensor, ...]
"""All that a solver carries from step to step: latents (B, C, h, w), and what a multistep solver
remembers. No state hides in a solver, and nothing in a state counts the steps."""


def not_finite(where: str) -> UserError:
    """The error that says `where` latents stopped being finite."""
    return UserError(
        f"the latents are no longer finite {where}",
        "use float32 or bfloat16 for the network, a lower guidance scale or more steps",
    )


def is_finite(state: Sequence[Tensor]) -> bool:
    """Whether every number of a state is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in state)


class Solver(PerImage, ABC):
    """A dataclass that makes steps. What is random in it belongs to an image."""

    @property
    @abstractmethod
    def order(self) -> int:
        """Its order of convergence."""

    @property
    @abstractmethod
    def calls(self) -> int:
        """Its network calls a step, once it is under way."""

    @property
    @abstractmethod
    def reversible(self) -> bool:
        """Whether `inverse` undoes `step` exactly, up to rounding.

        It then evaluates the network at the very points at which `step` did, in the opposite order.
        `chainrule.diffusion.gradient.Reversible` rests on both.
        """

    @property
    def rises(self) -> bool:
        """Whether it goes to noisier times as well, by adding noise."""
        return False

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks besides the denoiser's, each once."""
        return ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors besides the state that want a gradient, as `Denoiser.inputs` has them."""
        return ()

    def init(self, x: Tensor) -> State:
        """The state that starts (or, going backwards, ends) a chain at `x` (B, C, h, w)."""
        return (x,)

    def start(self, latents: State) -> State:
        """The state that starts a chain at as many latents as it carries (EDICT: a pair)."""
        return latents

    @abstractmethod
    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        """One step towards the image.

        Args:
            denoiser: What is asked.
            state: At time `t`.
            k: The number of the step in its chain, from 0.
            t: The time now.
            s: The time to go to, below `t` unless the solver `rises`.

        Returns:
            The state at time `s`.
        """

    def inverse(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        """One step back towards the noise.

        Exact if the solver is `reversible`. Otherwise the usual approximation: the same step, the
        other way, so that the network is asked at the cleaner end.

        Args:
            denoiser: What is asked.
            state: At time `s`.
            k: The number of the step in its chain, from 0.
            t: The time to go back to, above `s`.
            s: The time now.

        Returns:
            The state at time `t`.
        """
        return self.step(denoiser, state, k, denoiser.schedule.network_time(s), t)

    def final(self, state: State) -> Tensor:
        """The latent (B, C, h, w) that a state stands for."""
        return state[0]

    def latents(self, state: State) -> State:
        """Those of a state's tensors that stand for images, each (B, C, h, w)."""
        return (state[0],)

    def replace_latents(self, state: State, latents: State) -> State:
        """`state` with other `latents`, as many as it has."""
        return (*latents, *state[len(latents) :])

    def check(self, state: State) -> None:
        """Warn, at the end of a chain, if `state` shows that the chain cannot be trusted."""


class WrappedSolver(Solver):
    """A dataclass made of another solver: as that one in all that it does not change.

    It cannot be undone: what it does besides is not in the solver's inverse.
    """

    solver: Solver
    reversible = False

    @property
    def order(self) -> int:
        return self.solver.order

    @property
    def calls(self) -> int:
        return self.solver.calls

    @property
    def rises(self) -> bool:
        return self.solver.rises

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.solver.networks

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.solver.inputs

    def init(self, x: Tensor) -> State:
        return self.start(self.solver.latents(self.solver.init(x)))

    def start(self, latents: State) -> State:
        return self.solver.start(latents)

    def inverse(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        raise UserError(
            f"a {type(self.solver).__name__} chain that is constrained cannot be undone",
            "invert without the constraint",
        )

    def final(self, state: State) -> Tensor:
        return self.latents(state)[0]

    def latents(self, state: State) -> State:
        return self.solver.latents(state)

    def replace_latents(self, state: State, latents: State) -> State:
        return self.solver.replace_latents(state, latents)

    def check(self, state: State) -> None:
        self.solver.check(state)


class ODESolver(Solver):
    """A dataclass that solves any ODE dy/du = f(y, u), here the probability-flow ODE.

    Its state is the latent, and what it remembers of earlier steps. Its `coordinates` are those in
    which it solves; None: `chainrule.diffusion.ode.choose_coordinates`.
    """

    coordinates: Coordinates | None
    reversible = False

    @abstractmethod
    def integrate(
        self, ode: ODE, y: Tensor, memory: State, t: float, s: float
    ) -> tuple[Tensor, State]:
        """Go from one time to another.

        Args:
            ode: What is solved.
            y: The value at time `t`.
            memory: What was remembered, nothing at first.
            t: The time now.
            s: The time to go to.

        Returns:
            The value at time `s`, and what to remember.
        """

    def flow(self, denoiser: Denoiser) -> ProbabilityFlow:
        """The ODE of `denoiser` in this solver's coordinates."""
        return ProbabilityFlow(denoiser, self.coordinates or choose_coordinates(denoiser))

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        ode = self.flow(denoiser)
        x, *memory = state
        y, remembered = self.integrate(ode, ode.enter(x, t), tuple(memory), t, s)
        return (ode.leave(y, s), *remembered)


def add_slopes(y: Tensor, h: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """y + h (the weighted sum of the slopes).

    Args:
        y: The value at the start of a step.
        h: The step's length.
        weights: One for each slope.
        slopes: Each in the shape of `y`.
    """
    for weight, slope in zip(weights, slopes, strict=True):
        y = y + (h * weight) * slope if weight else y
    return y
