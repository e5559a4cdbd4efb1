"""Training-free guidance in one family: Ye et al. 2024 (TFG), and what it unifies."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance.training_free import (
    Fixed,
    Normalise,
    Ramp,
    Shape,
    TrainingFree,
)
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.diffusion.time_grids import last_steps, repeat_steps
from chainrule.errors import UserError
from chainrule.losses.base import Checked
from chainrule.methods.base import Drawn, Needs, Situation, Steps, Strength, Task
from chainrule.methods.chains import OneShot, add_noise, generate
from chainrule.methods.chunking import encode_photos


@dataclass(frozen=True)
class Member:
    """The settings of one of the family; what is not named is off.

    Args:
        rho: How hard the loss pushes x_t.
        mu: How hard it pushes the guess x0.
        rho_schedule: How `rho` changes along the chain.
        mu_schedule: How `mu` does.
        pushes: How often `mu` pushes at each step.
        gamma: How far the guess is smoothed.
        samples: Of the smoothing.
        normalise: What gradients are divided by.
        fixed: What stays while the guess moves.
        recurrences: How often each step is made.
        eta: The noise between steps.
    """

    rho: float = 0.0
    mu: float = 0.0
    rho_schedule: Shape = "constant"
    mu_schedule: Shape = "constant"
    pushes: int = 1
    gamma: float = 0.0
    samples: int = 1
    normalise: Normalise = "plain"
    fixed: Fixed = "eps"
    recurrences: int = 1
    eta: float = 0.0


Like = Literal["tfg", "one-step", "dps", "lgd", "mpgd", "freedom", "universal", "gentle", "strong"]
FAMILY: dict[str, Member] = {
    # the public script for labels on CIFAR-10
    "tfg": Member(1.0, 0.25, "increasing", "increasing", pushes=4, gamma=1e-3),
    "one-step": Member(5.0, rho_schedule="variance", fixed="x_t"),
    "dps": Member(1.0, rho_schedule="step", normalise="loss", eta=1.0),
    "lgd": Member(1.0, rho_schedule="variance", gamma=1.0, samples=10, fixed="x_t"),
    "mpgd": Member(mu=1.0),
    "freedom": Member(1.0, rho_schedule="step", recurrences=2, eta=1.0),
    "universal": Member(5.0, 1.0, "variance", pushes=5, fixed="x_t", recurrences=2),
    "gentle": Member(0.03, normalise="gradient"),
    "strong": Member(mu=0.1, pushes=2, normalise="gradient"),
}
"""By the name of `like`. The papers choose strengths and counts for each task; their updates are
what is exact here. "gentle" and "strong" are no paper's: what did best in the bundled world towards
what networks judge, and towards a picture's pixels."""
LOOK = 1
"""The passes of decoding and judging an image."""
REST = {"pushes": "mu", "mu_schedule": "mu", "rho_schedule": "rho", "samples": "gamma"}
"""The settings that act through another one."""


class TFG(OneShot):
    """Pushes each step by the loss of the guessed image, in every way that is known of.

        Delta_t = -rho_t d E(x0(x_t)) / d x_t                              N_recur times a step
        Delta_0 = Delta_0 - mu_t d E(x0 + Delta_0) / d x0                  N_iter times
        x_s = step(x_t, x0, eps) + alpha_s (Delta_t / alpha_t + Delta_0)   algorithm 1
        E(x0) = -log mean_i exp(-loss(decode(x0 + gamma sigma_t z_i)))

    Ye et al., "TFG: Unified Training-Free Guidance for Diffusion Models", 2024. `like` sets all
    settings to those of a member of the family, and those that are given replace its own:
    tfg; one-step (DOODL's baseline); dps (Chung et al. 2023: divided by the root of the loss);
    lgd (Song et al. 2023: smoothed); mpgd (He et al. 2024: x0 alone, no backward pass of the
    network); freedom (Yu et al. 2023: repeats); universal (Bansal et al. 2023: rho, mu, repeats);
    gentle, strong (our own). A photo is noised first, as in SDEdit.

    Cost: steps x recurrences passes, as many backward passes if there is a rho; the loss is
    computed and differentiated (rho: 1) + (mu: pushes) times samples for each.

    Limits: the guess of a noisy latent is blurry, so early pushes may point elsewhere; strengths
    are in units of the loss, unless gradients are normalised.
    """

    kind: Literal["tfg"] = "tfg"
    needs = Needs.LOSS
    to_change_more: ClassVar[str] = "raise its rho or mu, or its strength"
    with_photo = ("strength",)
    like: Like = Field(
        default="tfg", description="Whose settings stand where those below are none."
    )
    rho: float | None = Field(default=None, description="How hard the loss pushes x_t.")
    mu: float | None = Field(default=None, description="How hard it pushes the guessed picture.")
    rho_schedule: Shape | None = Field(
        default=None,
        description="How rho changes: constant, increasing, decreasing (around a mean of rho), "
        "variance (sigma^2: then rho is in units of the loss), step (the same push on each x_s).",
    )
    mu_schedule: Shape | None = Field(default=None, description="How mu changes: likewise.")
    pushes: int | None = Field(
        default=None, ge=1, description="How often mu pushes at each step, N_iter."
    )
    gamma: float | None = Field(
        default=None, ge=0, description="How far the loss is smoothed, as a share of sigma."
    )
    samples: int | None = Field(default=None, ge=1, description="How many make its mean.")
    normalise: Normalise | None = Field(
        default=None,
        description="What a gradient is divided by: plain (nothing), loss (its root), gradient "
        "(its root mean square: then rho and mu are what each latent number moves by, whatever the "
        "loss).",
    )
    fixed: Fixed | None = Field(
        default=None,
        description="What stays while the guess moves: eps (the noise in it), or x_t (they make "
        "it together).",
    )
    recurrences: int | None = Field(
        default=None, ge=1, description="How often each step is made, N_recur (time travel)."
    )
    eta: float | None = Field(
        default=None, ge=0, le=1, description="The noise between steps: 0 is DDIM, 1 is DDPM."
    )
    strength: Strength = 0.5
    steps: Steps = 50

    @model_validator(mode="after")
    def _check(self) -> TFG:
        for name, needed in REST.items():
            if getattr(self, name) is not None and not getattr(self.member, needed):
                raise UserError(
                    f"{name} has no effect on tfg without a {needed}",
                    f"omit it, or give {needed} a value",
                    name,
                )
        return self

    @property
    def member(self) -> Member:
        """All settings, with those of `like` where none is given."""
        given = {each.name: getattr(self, each.name) for each in fields(Member)}
        said = {name: value for name, value in given.items() if value is not None}
        return replace(FAMILY[self.like], **said)

    @property
    def passes(self) -> int:
        """The passes of a draw: the network's, and those of what looks at images.

        Forwards and backwards are one each; to look is to decode and to judge.
        """
        mine = self.member
        looks = 2 * mine.recurrences * mine.samples * (bool(mine.rho) + mine.pushes * bool(mine.mu))
        return self.steps * mine.recurrences * (2 if mine.rho else 1) + self.steps * looks + LOOK

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        if task.photo is None:
            return self.walk(task, task.x_T, on_step=on_step)
        start = add_noise(task, encode_photos(task), self.steps, self.strength)
        return self.walk(task, start, strength=self.strength, on_step=on_step)

    def walk(
        self, task: Task, x: Tensor, *, strength: float = 1.0, on_step: OnStep | None = None
    ) -> Drawn:
        """Walk the last `strength` of a chain, guided.

        Args:
            task: Whose chain and loss.
            x: Where the walk begins (B, C, h, w).
            strength: The share of the chain that is walked, above 0 and at most 1.
            on_step: Told after each step.
        """
        times = last_steps(task.model.schedule.times(self.steps), strength)
        solver, often = self.solver(task, times), self.member.recurrences
        grid = partial(_repeat, times, often)
        return generate(task, x, self.steps, solver=solver, grid=grid, on_step=on_step)

    def solver(self, task: Task, times: Tensor) -> TrainingFree:
        """What makes the steps.

        Args:
            task: Whose loss, model and noise.
            times: Of the chain, each once.
        """
        mine, schedule = self.member, task.model.schedule
        return TrainingFree(
            DDPM(task.noise.stream("ddpm"), mine.eta),
            task.model.decode,
            Checked(task.require_loss()),
            rho=Ramp(mine.rho, mine.rho_schedule).over(schedule, times),
            mu=Ramp(mine.mu, mine.mu_schedule).over(schedule, times),
            pushes=mine.pushes,
            gamma=mine.gamma,
            samples=mine.samples,
            normalise=mine.normalise,
            fixed=mine.fixed,
        )

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """The paper's settings are in units of its losses; elsewhere `like` is "strong"."""
        strong = {} if situation.name == "faithful" else {"like": "strong"}
        return super().preset(situation) | strong


def _repeat(times: Tensor, often: int, schedule: Any, steps: int) -> Tensor:
    """The times of a chain, each step made `often`: a time grid."""
    return repeat_steps(times, often)


def require_plain_draw(budget: int, steps: int) -> None:
    """Raise UserError for a budget that is too small for a plain image that is judged.

    Args:
        budget: Of passes.
        steps: Of its chain.
    """
    if budget < steps + LOOK:
        raise UserError(
            f"a plain image takes {steps + LOOK} passes, and the budget is {budget}",
            "raise the budget, or take fewer steps",
            "budget",
        )
