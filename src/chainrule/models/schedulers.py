"""The noise schedule, the times and the parameterization of a diffusers scheduler."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Epsilon, Parameterization, Velocity
from chainrule.diffusion.schedule import FlowMatching, Schedule, VariancePreserving
from chainrule.diffusion.time_grids import Spacing, leading, linspace, trailing
from chainrule.errors import UserError
from chainrule.models.quiet import first_line

PREDICTION_TYPES: dict[str, Parameterization] = {"epsilon": Epsilon(), "v_prediction": Velocity()}

OWN_TIMES = {
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
}
"""Schedulers that call the network once at each of their times."""

DDIM_TIMES = {
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
}
"""Schedulers for which DDIM stands in, with its own times."""

END_NOISY = {"DEISMultistepScheduler", "SASolverScheduler"}
"""Schedulers whose chains end at the first timestep, with what noise is left there."""

NOISE_GRIDS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)
"""Settings by which a scheduler spaces the noise itself; its times follow from it, some rounded."""

ADDS_NOISE = {
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
}
"""Schedulers that add noise between their steps."""


class SchedulerWarning(UserWarning):
    """The checkpoint's own scheduler samples otherwise than a chain of chainrule does."""


def read_schedule(scheduler: Any) -> Schedule:
    """The noise schedule of a variance-preserving scheduler, and its times or DDIM's.

    Which solver it stands for does not matter: a chain's solver is an argument of `sample`.

    Raises:
        UserError: The scheduler is for another process, or its settings are not possible.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    plain = {
        "timestep_type": "discrete",
        "use_flow_sigmas": False,
        "interpolation_type": "linear",
    }
    unlike = [
        f"{name}={config[name]!r}" for name in plain if config.get(name) not in (None, plain[name])
    ]
    if kind not in OWN_TIMES | DDIM_TIMES or unlike:
        settings = f" with {unlike[0]}" if unlike else ""
        raise UserError(
            f"the scheduler {kind} of this checkpoint is not supported{settings}",
            "give the pipeline a DDIMScheduler if it was trained for that",
            "model",
        )
    try:
        ddim = to_ddim(scheduler)
        alpha_bar, final = ddim.alphas_cumprod, float(ddim.final_alpha_cumprod)
        spacing = _read_spacing(scheduler, ddim, alpha_bar)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise _impossible(kind, error) from error
    if not ((alpha_bar.diff() < 0).all() and alpha_bar[-1] >= 0 and alpha_bar[0] < 1):
        raise _impossible(kind, "its noise does not rise with time")
    if kind in OWN_TIMES:
        noisy = kind in END_NOISY or config.get("final_sigmas_type") == "sigma_min"
        final = alpha_bar[0].item() if noisy else 1.0
    _warn_of_differences(scheduler)
    return VariancePreserving(alpha_bar, final, spacing)


def _impossible(kind: str, reason: object) -> UserError:
    return UserError(
        f"the settings of the scheduler {kind} are not possible ({first_line(reason)})",
        "mend scheduler/scheduler_config.json, or fetch the checkpoint again",
        "model",
    )


def _read_spacing(scheduler: Any, ddim: Any, alpha_bar: Tensor) -> Spacing:
    """The times of a scheduler, or of DDIM where that stands in."""
    if any(scheduler.config.get(name) for name in NOISE_GRIDS):
        return _times_of_noise(scheduler, alpha_bar)
    if type(scheduler).__name__ in OWN_TIMES:
        return _own_times(scheduler)
    spacings: dict[str, Spacing] = {
        "leading": leading(ddim.config.steps_offset),
        "trailing": trailing,
        "linspace": linspace,
    }
    if ddim.config.timestep_spacing not in spacings:
        raise ValueError(f"timestep_spacing is {ddim.config.timestep_spacing!r}")
    return spacings[ddim.config.timestep_spacing]


def _warn_of_differences(scheduler: Any) -> None:
    """Say what a checkpoint's own scheduler does at each step and a chain here does not."""
    kind, config = type(scheduler).__name__, scheduler.config
    known = inspect.signature(type(scheduler).__init__).parameters
    settings = {name: value for name, value in config.items() if name in known}
    noisy = str(settings.get("algorithm_type")).startswith("sde")
    if kind in ADDS_NOISE or noisy or settings.get("stochastic_sampling"):
        _warn(
            f"this checkpoint's {kind} adds noise between its steps; chains here add none unless "
            "their solver does, so the images differ from those of its own pipeline"
        )
    clips = [name for name in ("clip_sample", "thresholding") if settings.get(name)]
    if clips:
        _warn(
            f"this checkpoint's {kind} clips the predicted image at each step ({clips[0]}); chains "
            "here do not, because that could not be undone, so the images differ from those of "
            "its own pipeline"
        )


def _warn(sentence: str) -> None:
    warnings.warn(sentence, SchedulerWarning, stacklevel=2)


def read_flow_schedule(scheduler: Any, tokens: int, *, uniform: bool = False) -> Schedule:
    """The schedule of a flow-matching scheduler.

    Args:
        scheduler: The pipeline's scheduler.
        tokens: How many tokens (patches) an image has; some schedules shift with them.
        uniform: Whether the pipeline gives the scheduler evenly spaced sigmas, from 1 to
            1 / steps, to shift; otherwise the scheduler chooses them.

    Raises:
        UserError: The scheduler is for another process.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    if kind != "FlowMatchEulerDiscreteScheduler":
        raise UserError(
            f"{kind} is not supported for flow matching",
            "give the pipeline FlowMatchEulerDiscreteScheduler",
            "model",
        )
    if config.get("invert_sigmas"):
        raise UserError(
            f"the scheduler {kind} of this checkpoint is not supported with invert_sigmas=True",
            "give the pipeline one without it",
            "model",
        )
    _warn_of_differences(scheduler)
    options: dict[str, Callable[[int], Any]] = {}
    if config.use_dynamic_shifting:  # linear in the number of tokens
        few, many = config.base_image_seq_len, config.max_image_seq_len
        share = (tokens - few) / (many - few)
        mu = config.base_shift + share * (config.max_shift - config.base_shift)
        options["mu"] = partial(_keep, mu)
    if uniform:
        options["sigmas"] = _uniform_sigmas
    return FlowMatching(config.num_train_timesteps, _own_times(scheduler, **options))


def read_parameterization(scheduler: Any) -> Parameterization:
    """What the network predicts, by its scheduler.

    Raises:
        UserError: It is not supported.
    """
    config = scheduler.config
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTION_TYPES:
        raise UserError(
            f"a network that predicts {kind!r} is not supported",
            f"choose a checkpoint whose prediction_type is {' or '.join(PREDICTION_TYPES)}",
            "model",
        )
    if kind == "epsilon" and config.get("rescale_betas_zero_snr", False):
        raise UserError(
            "a network that predicts the noise cannot start at zero signal",
            "use a v-prediction checkpoint",
            "model",
        )
    return PREDICTION_TYPES[kind]


def to_ddim(scheduler: Any) -> Any:
    """diffusers' DDIM with the settings of another scheduler, also those at their defaults.

    >>> from diffusers import DPMSolverMultistepScheduler
    >>> scheduler = DPMSolverMultistepScheduler()
    >>> to_ddim(scheduler).config.timestep_spacing  # DDIM's own default is leading
    'linspace'
    """
    from diffusers import DDIMScheduler

    known = DDIMScheduler().config
    settings = {
        name: value
        for name, value in scheduler.config.items()
        if name in known and not name.startswith("_")
    }
    return DDIMScheduler(**settings)


def _keep(value: float, steps: int) -> float:
    """`value`, whatever the number of steps."""
    return value


def _uniform_sigmas(steps: int) -> list[float]:
    sigmas: list[float] = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).tolist()
    return sigmas


def _own_times(scheduler: Any, **options: Callable[[int], Any]) -> Spacing:
    """The times that a scheduler visits.

    Args:
        scheduler: The scheduler, which is left as it is.
        options: Those of its `set_timesteps`, as functions of the number of steps.
    """

    return partial(_visit_own, scheduler, options)  # which can be pickled, as a closure cannot


def _visit_own(
    scheduler: Any, options: Mapping[str, Callable[[int], Any]], training: int, steps: int
) -> Tensor:
    found: Tensor = _set_steps(scheduler, steps, options).timesteps
    return _spread(found.double(), steps, type(scheduler).__name__)


def _times_of_noise(scheduler: Any, alpha_bar: Tensor) -> Spacing:
    """The times at which there is exactly the noise that a scheduler's steps begin with.

    Schedulers round the times that they tell the network, and so may tell it one twice, but not
    their noise.

    Args:
        scheduler: The scheduler, which is left as it is.
        alpha_bar: Its table (N,).
    """
    schedule = VariancePreserving(alpha_bar, 1.0, trailing)
    ends = [(1 / alpha_bar[i].double().clamp(min=2.0**-24) - 1).sqrt().item() for i in (0, -1)]

    return partial(_visit_noise, scheduler, schedule, ends)


def _visit_noise(
    scheduler: Any, schedule: Schedule, ends: list[float], training: int, steps: int
) -> Tensor:
    sigmas = _set_steps(scheduler, steps, {}).sigmas.double()
    # some hold each but the first twice, for their two calls a step, or the last twice
    rhos = sigmas[sigmas > 0].unique_consecutive()[:steps]
    if rhos.min() < ends[0] * 0.99 or rhos.max() > ends[1] * 1.01:
        raise UserError(
            f"{steps} sampling steps are not possible: {type(scheduler).__name__} begins or "
            "ends with more or less noise than the network was trained with",
            "give the pipeline a scheduler without sigma_min and sigma_max",
            "steps",
        )
    found = torch.tensor([schedule.time(rho) for rho in rhos.tolist()], dtype=torch.float64)
    found[rhos >= ends[1] * (1 - 1e-6)] = schedule.last
    whole = found.round()
    found = torch.where((found - whole).abs() < 1e-3, whole, found)  # sigmas are float32
    return _spread(found, steps, type(scheduler).__name__)


def _set_steps(scheduler: Any, steps: int, options: Mapping[str, Callable[[int], Any]]) -> Any:
    """A copy of a scheduler that is set to a number of steps."""
    own = type(scheduler).from_config(scheduler.config)
    try:
        own.set_timesteps(steps, **{name: option(steps) for name, option in options.items()})
    except ValueError as error:
        impossible = f"{steps} sampling steps are not possible"
        raise UserError(impossible, first_line(error), "steps") from error
    return own


def _spread(times: Tensor, steps: int, kind: str) -> Tensor:
    """Times that fall. Those that rounding made equal are moved apart, within a timestep.

    Args:
        times: Falling, some of them perhaps equal.
        steps: How many there should be.
        kind: The scheduler's, for messages.

    Raises:
        UserError: There are fewer, or too many of them are equal.
    """
    found = times[:steps].clone()
    for k in range(1, len(found)):
        if found[k] == times[k - 1]:
            found[k] = found[k - 1] - 1 / 8
    if len(found) < steps or not (found.diff() < 0).all() or found[-1] < 0:
        raise UserError(
            f"{steps} sampling steps are not possible: {kind} visits a time more than once",
            "take fewer, or give the pipeline another scheduler",
            "steps",
        )
    return found
