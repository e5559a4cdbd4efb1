"""Asyrp, trained: Kwon, Jeong & Uh, "Diffusion Models Already Have a Semantic Latent Space"."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.control import Bottleneck, Learnt
from chainrule.diffusion.control.bottleneck import bottleneck, deepest
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.time_grids import count_steps, time_at_share
from chainrule.errors import UserError
from chainrule.losses.features import load_features
from chainrule.methods.asyrp_times import find_boost, find_times
from chainrule.methods.base import Sheet, Steps, Task, Writer
from chainrule.methods.change import TERMS, Changing
from chainrule.methods.thing import AT_ONCE
from chainrule.methods.training import Training
from chainrule.models.directions import Saved, save_direction
from chainrule.optimise import Adam


class AsyrpTrained(Changing):
    """Learns a direction of the bottleneck from pictures, for other pictures; no weight moves.

        x_s = alpha_s P_t(x_t; h + f_t(h)) + sigma_s D_t(x_t; h)                 eq. 7, section 3.4
        L_t = w (1 - cos(E_I(P_t') - E_I(P_t), E_T(target) - E_T(source))) + l1 |P_t' - P_t|  eq. 8

    Kwon, Jeong & Uh, "Diffusion Models Already Have a Semantic Latent Space", 2023. P_t is the
    picture that is predicted at time t, D_t the way back; P_t' is of the moved h, in the chain that
    is edited, and P_t of the one that is not. f_t is one small network of h and t, zero at first
    (`form=function`), or a shift for each step (`shifts`). With `through=step` each step of the
    editing interval [T, t_edit] judges what it predicts and updates at once, and no gradient goes
    from step to step, as in the paper; with `chain` the finished image is judged, and its exact
    gradient goes through the whole chain. `iterations` are updates. The pictures are inverted by
    DDIM, once, and the network is told nothing (`told`).

    t_edit is the last time at which P_t is still 0.33 from the picture, and t_boost the noisiest at
    which x_t is at most 1.2 from it (section 4.1), unless `until` and `boost` say so; the distance
    is LPIPS without its learnt weights, by `features`, and the paper's correction of t_edit by the
    texts' distance is not made. `asyrp-edit` uses what was learnt, and adds noise from t_boost on.

    Limits: what the block does not decide cannot be moved, and what CLIP cannot tell apart is not.
    h is the middle of a U-Net, or the middle block of a transformer; that is not in the paper, and
    tried on tiny ones only. Shifts are for pictures of one size.
    """

    kind: Literal["asyrp-trained"] = "asyrp-trained"
    through: Literal["chain", "step"] = Field(
        default="step", description="What the gradient goes through: each step, or the chain."
    )
    form: Literal["function", "shifts"] = Field(
        default="function", description="A function of h and t, or a shift for each step."
    )
    until: float | None = Field(
        default=None, ge=0, le=1, description="The share of the steps that it moves; found."
    )
    boost: float | None = Field(
        default=None, ge=0, le=1, description="The share of the steps with noise at last; found."
    )
    steps: Steps = 40
    iterations: int = Field(default=2000, ge=1, description="How often it is updated.")
    direction: float = Field(default=1.0, ge=0, description="The weight of the direction, w.")
    l1: float = Field(default=3.0, ge=0, description="The weight of the pixels' distance.")
    optimiser: Adam = Adam(rate=5e-3, beta2=0.999)
    bundled_world: ClassVar[Mapping[str, Any]] = {
        "steps": 12,
        "until": 0.8,
        "boost": 0.0,
        "iterations": 270,
        "batch": 4,
        "optimiser": Adam(rate=3e-3, beta2=0.999),
    }

    def count_steps(self, given: Mapping[str, Tensor]) -> int:
        return int(given["moved"])

    def probe(self, steps: int) -> AsyrpTrained:
        whole = {"steps": steps, "iterations": 1, "until": 1.0, "boost": 0.0}
        return self.model_copy(update=whole)

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if self.until is not None and not count_steps(self.steps, self.until):
            raise UserError(
                f"until {self.until:g}, less than one of {self.steps} steps is moved",
                f"choose at least {math.ceil(100 / self.steps) / 100:g}, or more steps",
                "until",
            )
        deepest(self.tell(prepared))  # what has no such block is refused now
        return prepared

    def times(self, task: Task, *, fine: bool = False) -> Tensor:
        return task.model.schedule.times(self.steps)

    def gather(self, task: Task) -> dict[str, Tensor]:
        found = super().gather(task)
        t_edit, t_boost = self.find_times(task, found)
        return found | self.outline_own(task, t_edit, t_boost)

    def outline(self, task: Task) -> dict[str, Tensor]:
        return super().outline(task) | self.outline_own(task, 0.0, 0.0)

    def outline_own(self, task: Task, t_edit: float, t_boost: float) -> dict[str, Tensor]:
        """The times at which h is moved, the last of them, how many, and where noise is added."""
        times = self.times(task)[:-1]
        told = {"t_edit": t_edit, "t_boost": t_boost, "moved": (times >= t_edit).sum().item()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in told.items()}

    @torch.no_grad()
    def find_times(self, task: Task, given: Mapping[str, Tensor]) -> tuple[float, float]:
        """t_edit and t_boost: as is said, or of at most `AT_ONCE` of the pictures."""
        told, times = self.tell(task), self.times(task)
        found = math.nan, math.nan
        if self.until is None or self.boost is None:
            features = load_features(self.features or task.model.world, task.model.device)
            some = given["pictures"][:AT_ONCE], given["x_t0"][:AT_ONCE]
            found = find_times(told, task.model.decode, features, *some, times)
        return (
            found[0] if self.until is None else time_at_share(times, self.until),
            found[1] if self.boost is None else find_boost(times, self.boost),
        )

    def begin(self, task: Task, given: Mapping[str, Tensor] | None = None) -> Training:
        given = self.gather(task) if given is None else given
        told, times = self.tell(task), self.times(task)
        with torch.no_grad():
            h = bottleneck(told, given["x_t0"][:1], times[0].item())
        learnt = Learnt.begin(h, times[:-1] if self.form == "shifts" else None)
        moved = {name: value for name, value in learnt.values.items() if name != "times"}
        return Training.begin(moved, TERMS, self.optimiser, **given)

    def find_direction(self, task: Task, values: Mapping[str, Tensor]) -> Learnt:
        """The direction that some values are."""
        times = {"times": self.times(task)[:-1]} if self.form == "shifts" else {}
        return Learnt({**values, **times})

    @contextmanager
    def learn(self, task: Task, state: Training) -> Iterator[tuple[Mapping[str, Tensor], Denoiser]]:
        leaves = {name: value.clone().requires_grad_() for name, value in state.values.items()}
        learnt, stop = self.find_direction(task, leaves), state.given["t_edit"].item()
        yield leaves, Bottleneck(self.tell(task), learnt, stop)

    @contextmanager
    def use(self, task: Task, state: Training | None) -> Iterator[Denoiser]:
        told = self.tell(task)
        if state is None:
            yield told
        else:
            learnt = self.find_direction(task, state.values)
            yield Bottleneck(told, learnt, state.given["t_edit"].item())

    def begin_steps(self, x_t0: Tensor) -> Tensor:
        return torch.stack([x_t0, x_t0], dim=1)  # in the chain that is edited, and as it is

    def take_step(
        self, told: Denoiser, x: Tensor, t: float, s: float, last: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        edited, plain = told(x[:, 0], t), cast(Bottleneck, told).denoiser(x[:, 1], t)
        left = [told.schedule.mix(*each, s) for each in (edited, plain)]
        return edited.x0, plain.x0, torch.stack(left, dim=1)

    def result(self, task: Task, state: Training) -> Sheet:
        sheet = super().result(task, state)
        found = {name: state.given[name].item() for name in ("t_edit", "t_boost")}
        return replace(sheet, numbers={**sheet.numbers, **found})

    def artefacts(self, task: Task, state: Training) -> Mapping[str, Writer]:
        """The direction, for `asyrp-edit`."""
        ends = (state.given[name].item() for name in ("t_edit", "t_boost"))
        saved = Saved(self.find_direction(task, state.values), *ends)
        return {"direction.safetensors": partial(save_direction, saved=saved, change=self.change)}
