"""Optimisers as functions of tensors.

Nothing is hidden in an optimiser: what it remembers is a tensor that is given and returned, so that
a run that was stopped goes on from a file as if it never had been.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.specs import Spec

RATE = "The learning rate."


class Optimiser(Spec, ABC):
    """How a gradient changes what is optimised."""

    kind: str
    rate: float = Field(gt=0, description=RATE)

    @abstractmethod
    def update(
        self, value: Tensor, gradient: Tensor, memory: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            value: What is optimised.
            gradient: Of the loss, as `value`.
            memory: (2, *value.shape), what was returned before; zero before iteration 0.
            k: The iteration.

        Returns:
            What to add to `value`, and the new memory.
        """


class Momentum(Optimiser):
    """DOODL's update (eq. 8); Nesterov's, as torch has it, with the step that comes next added."""

    kind: Literal["momentum"] = "momentum"
    rate: float = Field(default=0.05, gt=0, description=RATE)
    clip: float | None = Field(
        default=1e-3, gt=0, description="The bound of each element of a step; none: no bound."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="How much of the last step stays.")
    nesterov: bool = Field(default=False, description="Whether a step looks ahead (Nesterov 1983).")

    def update(
        self, value: Tensor, gradient: Tensor, memory: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        g = -self.rate * gradient
        if self.clip is not None:
            g = g.clamp(-self.clip, self.clip)
        velocity = self.momentum * memory[0] + g
        change = g + self.momentum * velocity if self.nesterov else velocity
        return change, torch.stack([velocity, memory[1]])


class Adam(Optimiser):
    """Adam (Kingma & Ba 2015), which does not care for the scale of the loss.

    With a decay, AdamW (Loshchilov & Hutter 2019). The memory holds both moments.
    """

    kind: Literal["adam"] = "adam"
    rate: float = Field(default=0.1, gt=0, description=RATE)
    beta1: float = Field(default=0.9, ge=0, lt=1, description="The first moment's memory.")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="The second moment's memory.")
    decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")

    def update(
        self, value: Tensor, gradient: Tensor, memory: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        first = torch.lerp(gradient, memory[0], self.beta1)
        second = torch.lerp(gradient.square(), memory[1], self.beta2)
        unbiased = first / (1 - self.beta1 ** (k + 1))
        scale = second / (1 - self.beta2 ** (k + 1))
        change = -self.rate * unbiased / (scale.sqrt() + 1e-12)
        return change - self.rate * self.decay * value, torch.stack([first, second])
