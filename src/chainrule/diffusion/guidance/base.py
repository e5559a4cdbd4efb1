"""What guides that push have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from chainrule.diffusion.denoiser import Prediction

Energy = Callable[[Tensor, float], Tensor]
"""(x_t (B, C, h, w), t) -> (B,), lower where the image should go. One that has something for each image has `of`."""


def select_energy(energy: Energy, rows: Sequence[int]) -> Energy:
    """`energy` for some of the images of a batch."""
    return energy.select(rows) if hasattr(energy, "of") else energy


def pushed(prediction: Prediction, change: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """`prediction` with `change` added to its noise, and its picture moved so that both still make x_t."""
    return Prediction(prediction.x0 - sigma / alpha * change, prediction.eps + change)
