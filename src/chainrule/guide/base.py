"""What guides that push have in common."""

from __future__ import annotations

from torch import Tensor

from chainrule.denoiser import Prediction


def pushed(prediction: Prediction, change: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """`prediction` with `change` added to its noise, and its picture moved so that both still make x_t."""
    return Prediction(prediction.x0 - sigma / alpha * change, prediction.eps + change)
