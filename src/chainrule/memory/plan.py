"""How a run fits the memory that there is: what it keeps, what it rebuilds, what waits elsewhere.

Every level of a plan but `half` computes the same images and the same gradients, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field

from chainrule.specs import Spec


class Plan(Spec):
    """Memory for time, or time for memory."""

    keep: int = Field(
        default=0, ge=0, description="Of how many steps the graphs are kept instead of rebuilt."
    )
    decode_batch: int | None = Field(
        default=None, ge=1, description="How many images are decoded and judged at once; all."
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="How many images are computed at once at all; all."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Rebuild the graphs inside the networks too, block by block."
    )
    offload: bool = Field(
        default=False, description="Leave on the CPU what is not at work at the moment."
    )
    half: bool = Field(
        default=False,
        description="Hold the network's weights in bfloat16: this is not the same gradient.",
    )

    def __str__(self) -> str:
        said = {
            f"the graphs of {self.keep} step{'s' * (self.keep > 1)} kept": self.keep > 0,
            f"decoded {self.decode_batch} at a time": self.decode_batch is not None,
            f"computed {self.batch_size} at a time": self.batch_size is not None,
            "gradient checkpointing": self.gradient_checkpointing,
            "the idle offloaded to the CPU": self.offload,
            "weights in bfloat16": self.half,
        }
        return ", ".join(part for part, holds in said.items() if holds) or "plain"

    @property
    def decoded_at_once(self) -> int | None:
        """How many images are decoded and judged at once (None: all of them)."""
        sizes = (self.decode_batch, self.batch_size)
        return min((size for size in sizes if size is not None), default=None)

    def tighten(self, batch: int, device: torch.device) -> Iterator[Plan]:
        """The plans below this one that compute the same, each of less memory.

        Args:
            batch: How many images there are.
            device: Where they are computed.
        """
        changes: list[dict[str, object]] = [{"keep": 0}]
        changes += [{"decode_batch": 1}] if batch > 1 else []
        now = self.batch_size or batch
        changes += [{"batch_size": size} for size in _halve(batch) if size < now]
        changes += [{"gradient_checkpointing": True}]
        changes += [{"offload": True}] if device.type != "cpu" else []
        plan = self
        for change in changes:
            lower = plan.model_copy(update=change)
            if lower != plan:
                plan = lower
                yield plan


def _halve(size: int) -> Iterator[int]:
    while size > 1:
        size = (size + 1) // 2
        yield size
