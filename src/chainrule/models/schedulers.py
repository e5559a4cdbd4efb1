"""The noise schedule, the times and the parameterization of a diffusers scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Epsilon, Parameterization, Velocity
from chainrule.diffusion.schedule import FlowMatching, Schedule, VariancePreserving
from chainrule.diffusion.time_grids import Spacing, leading, linspace, trailing
from chainrule.errors import UserError

PREDICTION_TYPES: dict[str, Parameterization] = {"epsilon": Epsilon(), "v_prediction": Velocity()}

OWN_TIMES = {
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "UniPCMultistepScheduler",
}
"""Schedulers that call the network once at each of their times; their chains end without noise."""

DDIM_TIMES = {
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
}
"""Schedulers for which DDIM stands in, with its own times."""


def read_schedule(scheduler: Any) -> Schedule:
    """The noise schedule of a variance-preserving scheduler, and its times or DDIM's.

    Which solver it stands for does not matter: a chain's solver is an argument of `sample`.

    Raises:
        UserError: The scheduler is for another process.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    discrete = config.get("timestep_type", "discrete") == "discrete"
    preserving = discrete and not config.get("use_flow_sigmas", False)
    if kind not in OWN_TIMES | DDIM_TIMES or not preserving:
        settings = "" if preserving else " with these settings"
        raise UserError(
            f"the scheduler {kind} of this checkpoint is not supported{settings}",
            "give the pipeline a DDIMScheduler if it was trained for that",
            "model",
        )
    ddim = to_ddim(scheduler)
    alpha_bar = ddim.alphas_cumprod
    if kind in OWN_TIMES:
        ends_noisy = config.get("final_sigmas_type") == "sigma_min"
        final = alpha_bar[0].item() if ends_noisy else 1.0
        return VariancePreserving(alpha_bar, final, _own_times(scheduler))
    spacings: dict[str, Spacing] = {
        "leading": leading(ddim.config.steps_offset),
        "trailing": trailing,
        "linspace": linspace,
    }
    spacing = spacings[ddim.config.timestep_spacing]
    return VariancePreserving(alpha_bar, float(ddim.final_alpha_cumprod), spacing)


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
    options: dict[str, Callable[[int], Any]] = {}
    if config.use_dynamic_shifting:  # linear in the number of tokens
        few, many = config.base_image_seq_len, config.max_image_seq_len
        share = (tokens - few) / (many - few)
        mu = config.base_shift + share * (config.max_shift - config.base_shift)
        options["mu"] = lambda steps: mu
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
            f"{' and '.join(PREDICTION_TYPES)} are",
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


def _uniform_sigmas(steps: int) -> list[float]:
    sigmas: list[float] = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).tolist()
    return sigmas


def _own_times(scheduler: Any, **options: Callable[[int], Any]) -> Spacing:
    """The times that a scheduler visits.

    Args:
        scheduler: The scheduler, which is left as it is.
        options: Those of its `set_timesteps`, as functions of the number of steps.
    """

    def times(training: int, steps: int) -> Tensor:
        own = type(scheduler).from_config(scheduler.config)
        impossible = f"{steps} sampling steps are not possible"
        try:
            own.set_timesteps(steps, **{name: option(steps) for name, option in options.items()})
        except ValueError as error:
            raise UserError(impossible, str(error).splitlines()[0], "steps") from error
        found: Tensor = own.timesteps
        if not (found.diff() < 0).all():
            raise UserError(
                f"{impossible}: rounded, {type(scheduler).__name__} visits a time twice",
                "take fewer, or give the pipeline a scheduler without Karras' sigmas",
                "steps",
            )
        return found

    return times
