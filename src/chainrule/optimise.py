"""Optimisers as functions of tensors.

Nothing is hidden in an optimiser: what it remembers is a tensor that is given and returned, so that
a run that was stopped goes on from a file as if it never had been.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from chainrule.errors import UserError
from chainrule.specs import Spec

RATE = "The learning rate."
SCALES = " scales"
"""Behind the name of a memory: the scales of its blocks, where it is kept in eight bits."""
SMALL, BLOCK = 4096, 256
"""Of fewer numbers a memory is kept whole, as bitsandbytes does; so many numbers share a scale."""


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

    def check(self) -> None:
        """Raise UserError if a library that it needs is missing."""

    def keep(self, memory: Tensor) -> dict[str, Tensor]:
        """What is kept of a memory until the next iteration: all of it, or less.

        Args:
            memory: (2, *value.shape), as `update` returns it.

        Returns:
            The memory, named "", and what else is needed to recall it.
        """
        return {"": memory}

    def recall(self, memory: Tensor, scales: Tensor | None = None) -> Tensor:
        """The memory, as `update` takes it.

        Args:
            memory: What `keep` named "".
            scales: What it named `SCALES`, if it did.
        """
        return memory


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


def _read_bits(value: Any) -> Any:
    """Of a number as one types it, the number."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class Adam(Optimiser):
    """Adam (Kingma & Ba 2015), which does not care for the scale of the loss.

    With a decay, AdamW (Loshchilov & Hutter 2019). The memory holds both moments. Of a training, it
    can be kept in 8 bits a number from one iteration to the next, by blocks of 256 with a scale
    each (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022). The second moment
    is kept by its root, which spans half as many powers of ten: it is not 0 where the first is not.
    """

    kind: Literal["adam"] = "adam"
    rate: float = Field(default=0.1, gt=0, description=RATE)
    beta1: float = Field(default=0.9, ge=0, lt=1, description="The first moment's memory.")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="The second moment's memory.")
    decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    bits: Annotated[Literal[8, 32], BeforeValidator(_read_bits)] = Field(
        default=32, description="Of each number of both moments, in a training: 32, or 8."
    )

    def update(
        self, value: Tensor, gradient: Tensor, memory: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        first = torch.lerp(gradient, memory[0], self.beta1)
        second = torch.lerp(gradient.square(), memory[1], self.beta2)
        unbiased = first / (1 - self.beta1 ** (k + 1))
        scale = second / (1 - self.beta2 ** (k + 1))
        change = -self.rate * unbiased / (scale.sqrt() + 1e-12)
        return change - self.rate * self.decay * value, torch.stack([first, second])

    def check(self) -> None:
        if self.bits == 8:
            _import_bitsandbytes()

    def keep(self, memory: Tensor) -> dict[str, Tensor]:
        if self.bits == 32 or memory[0].numel() < SMALL:
            return {"": memory}
        kept = [
            _import_bitsandbytes().quantize_blockwise(moment, code=code, blocksize=BLOCK)
            for moment, code in zip(
                (memory[0], memory[1].sqrt()), _levels(memory.device), strict=True
            )
        ]
        codes, states = zip(*kept, strict=True)
        return {"": torch.stack(codes), SCALES: torch.stack([state.absmax for state in states])}

    def recall(self, memory: Tensor, scales: Tensor | None = None) -> Tensor:
        if scales is None:
            return memory
        first, root = (
            _import_bitsandbytes().dequantize_blockwise(
                codes, absmax=scale, code=code, blocksize=BLOCK
            )
            for codes, scale, code in zip(memory, scales, _levels(memory.device), strict=True)
        )
        return torch.stack([first, root.square()])


def require_whole(optimiser: Optimiser) -> None:
    """Raise UserError if an optimiser of noise, whose memory is small, would keep less than all."""
    if isinstance(optimiser, Adam) and optimiser.bits != 32:
        raise UserError(
            f"bits={optimiser.bits} is for what trains weights: the moments of noise are small",
            "omit it",
            "bits",
        )


@cache
def _levels(device: torch.device) -> tuple[Tensor, Tensor]:
    """The numbers that the 256 codes stand for, of the first moment and of the second's root."""
    function = _import_bitsandbytes()
    signed, unsigned = (function.create_dynamic_map(signed=signed) for signed in (True, False))
    return signed.to(device), unsigned.to(device)


def _import_bitsandbytes() -> Any:
    """Its functions. Raises UserError if it is missing."""
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise UserError(
            "the optimiser's state in 8 bits needs bitsandbytes",
            "pip install 'chainrule[eight-bit]', or choose 32 bits",
            "bits",
        ) from error
    return functional
