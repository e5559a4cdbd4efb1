"""What `sample` and its siblings are given: the obvious is accepted, the rest refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.base import Gradient
from chainrule.diffusion.gradient.registry import GRADIENTS
from chainrule.diffusion.schedule import END, Schedule
from chainrule.diffusion.solvers.base import Solver, State
from chainrule.diffusion.solvers.registry import SOLVERS
from chainrule.errors import UserError
from chainrule.specs import Registry

T = TypeVar("T")

Times = Tensor | Sequence[float] | int
"""The times of a chain (T + 1,), falling; or the number of its steps, at the checkpoint's times."""

AnySolver = Solver | type[Solver] | str
"""A solver, its class (with the settings by default) or its name (`SOLVERS`)."""

AnyGradient = Gradient | type[Gradient] | str
"""A gradient, its class (with the settings by default) or its name (`GRADIENTS`)."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def resolve_solver(given: object) -> Solver:
    """The solver that is meant.

    Raises:
        UserError: None is.
    """
    return _resolve(given, Solver, "solver", SOLVERS, "DDIM()")  # type: ignore[type-abstract]


def resolve_gradient(given: object) -> Gradient:
    """The gradient that is meant.

    Raises:
        UserError: None is.
    """
    kind, example = Gradient, "Checkpoint()"
    return _resolve(given, kind, "gradient", GRADIENTS, example)  # type: ignore[type-abstract]


def _resolve(
    given: object,
    kind: type[T],
    what: str,
    known: Registry[Callable[[], T]],
    example: str,
) -> T:
    if isinstance(given, kind):
        return given
    if isinstance(given, str):
        return known[_understand(given, known)]()
    if isinstance(given, type) and issubclass(given, kind):
        try:
            return given()
        except TypeError:
            raise UserError(
                f"{given.__name__} needs settings", f"make one: {given.__name__}(...)", what
            ) from None
    names = ", ".join(known.own)
    raise UserError(
        f"a {type(given).__name__} is not a {what}", f"give {example}, or a name: {names}", what
    )


def _understand(name: str, known: Registry[Callable[[], T]]) -> str:
    """A name in any case, or a class's; one that is not known stays, for the registry to refuse."""
    if name in known:
        return name
    low = name.lower()
    if known is SOLVERS and low == "ddpm":
        raise UserError(
            "DDPM needs the noise that it adds",
            'give an object: DDPM(Noise(seeds).stream("ddpm"))',
            "solver",
        )
    if known is SOLVERS and low == "adamsbashforth":
        raise UserError(
            "AdamsBashforth has an order",
            "name it: ab2, ab3 or ab4, or AdamsBashforth(2)",
            "solver",
        )
    makes = known.known.items()
    classes = {getattr(make, "__name__", "").lower(): each for each, make in makes}
    return classes.get(low, low if low in known else name)


def check_denoiser(given: object) -> None:
    """Refuse what is not a denoiser.

    Raises:
        UserError: It is something else, perhaps what comes after it.
    """
    if isinstance(given, Denoiser):
        return
    cure = 'model.denoiser("a prompt") makes one'
    if isinstance(given, Tensor):
        cure = "it comes first, before the latents and the times"
    raise UserError(f"a {type(given).__name__} is not a denoiser", cure, "denoiser")


def check_latents(given: object, denoiser: Denoiser) -> None:
    """Refuse what cannot be latents.

    Raises:
        UserError: It is no tensor (B, C, h, w) of real floating-point numbers where the network is.
    """
    if not isinstance(given, Tensor):
        raise UserError(
            f"a {type(given).__name__} is not latents",
            "give a tensor (B, C, h, w): model.noise([0]) makes one",
        )
    if given.dtype not in FLOATS:
        kind = str(given.dtype).removeprefix("torch.")
        raise UserError(
            f"latents of type {kind} cannot be differentiated",
            "use float32, float64, bfloat16 or float16",
        )
    if given.is_nested or given.layout != torch.strided or given.is_meta:
        raise UserError("latents must be an ordinary tensor, with numbers", "make it dense")
    if given.dim() != 4 or not given.numel():
        raise UserError(
            f"latents of shape {tuple(given.shape)} are not possible",
            "give (B, C, h, w), none of them 0",
        )
    weights = chain.from_iterable(network.parameters() for network in denoiser.networks)
    devices = {weight.device for weight in weights if not weight.is_meta}
    if devices and given.device not in devices:
        there = " and ".join(sorted(map(str, devices)))
        raise UserError(
            f"the latents are on {given.device} and the network is on {there}", "move one of them"
        )


def check_state(given: object, denoiser: Denoiser, solver: Solver) -> State:
    """A solver's state; of one that carries a single latent, that latent will do.

    Raises:
        UserError: It is not of this solver.
    """
    if isinstance(given, Tensor):
        check_latents(given, denoiser)
        return solver.init(given)
    if not isinstance(given, (tuple, list)) or not all(isinstance(x, Tensor) for x in given):
        raise UserError(
            f"a {type(given).__name__} is not a solver's state",
            "give a tuple of tensors: `solver.init(x_T)`, or what `invert` returned",
        )
    state = tuple(given)
    if state:
        check_latents(state[0], denoiser)
    if not state or not _is_of(solver, state):
        name = type(solver).__name__
        raise UserError(
            f"a state of {len(state)} tensors like these is not one of {name}",
            f"start from `solver.init(x_T)`, or from what `invert` with {name} returned",
        )
    return state


def _is_of(solver: Solver, state: State) -> bool:
    """Whether `state` has a solver's latents, and nothing or what a multistep solver remembers."""
    width = len(solver.latents(solver.init(state[0])))
    latents, rest = state[:width], state[width:]
    if len(latents) < width or not all(_alike(each, state[0]) for each in latents):
        return False
    # (clocks (n,), for each of them a tensor like the latents)
    return not rest or (
        rest[0].dim() == 1
        and 0 < len(rest[0]) == len(rest) - 1
        and all(_alike(each, state[0]) for each in rest[1:])
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    found = (one.shape, one.dtype, one.device, one.layout)
    return found == (other.shape, other.dtype, other.device, other.layout)


def check_times(given: object, schedule: Schedule, solver: Solver) -> tuple[float, ...]:
    """The times that a chain visits.

    Raises:
        UserError: They are not such times.
    """
    if isinstance(given, Integral) and not isinstance(given, bool):
        given = schedule.times(int(given))
    visited = _to_numbers(given)
    rising = "" if solver.rises else ", and only DDPM can rise to a noisier one"
    if len(visited) < 2 or any(
        s == t or (s > t and not solver.rises) for t, s in pairwise(visited)
    ):
        raise UserError(
            f"a chain needs at least two times, falling from noise to image{rising}",
            "`schedule.times(50)` makes them",
            "times",
        )
    wrong = [t for t in visited if not (END <= t <= schedule.last + 1e-6)]
    if wrong:
        raise UserError(
            f"the time {wrong[0]:g} is not one of this model, which knows {schedule.last:g} "
            f"(noise) to 0, and {END:g} (the image)",
            "`schedule.times(50)` makes some",
            "times",
        )
    return visited


def _to_numbers(given: object) -> tuple[float, ...]:
    """Times as numbers, all of them finite."""
    values: Any = given
    if isinstance(given, Tensor) and not given.is_complex() and given.dtype != torch.bool:
        values = None if given.is_meta or given.dim() != 1 else given.tolist()
    elif type(given).__module__ == "numpy":
        values = given.tolist()  # type: ignore[attr-defined]
    numbers = isinstance(values, Sequence) and all(
        isinstance(t, Real | Tensor) and not isinstance(t, bool) for t in values
    )
    try:
        visited = tuple(float(t) for t in values) if numbers else ()
    except (TypeError, ValueError, OverflowError, RuntimeError):
        numbers = False
    if not numbers or not all(map(math.isfinite, visited)):
        shape = tuple(given.shape) if isinstance(given, Tensor) else None
        what = f"a tensor of shape {shape}" if shape is not None else f"a {type(given).__name__}"
        raise UserError(
            f"{what} is not the times of a chain, a row of finite numbers",
            "give `schedule.times(50)`, or the number of steps",
            "times",
        )
    return visited


def check_progress(given: object) -> None:
    """Refuse a callback that cannot be called.

    Raises:
        UserError: It cannot.
    """
    if given is not None and not callable(given):
        raise UserError(
            f"a {type(given).__name__} cannot be told of progress",
            "give a function of (steps done, steps in all)",
            "on_step",
        )
