"""A network whose kernels are started all at once: CUDA graphs, where launching is what costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chainrule.diffusion.denoiser import Conditioning, Network

MOST = 64
"""From how many rows on the network is asked as it is: then launching costs little."""


class Graphed(Network):
    """A network that is captured once for each shape, forwards and backwards.

    What one call leaves for its way back is overwritten by the next: an image's gradient must be
    taken step by step, as `Checkpoint` does.

    Args:
        inner: The network, on a GPU.
    """

    def __init__(self, inner: Network) -> None:
        self.inner = inner
        self.schedule, self.parameterization = inner.schedule, inner.parameterization
        self.captured: dict[Any, Any] = {}

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return self.inner.weights

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.inner.networks

    def __call__(self, x: Tensor, t: float | Tensor, conditioning: Conditioning) -> Tensor:
        if len(x) > MOST:
            return self.inner(x, t, conditioning)
        times = torch.as_tensor(t, device=x.device, dtype=torch.float32).expand(len(x)).clone()
        key = (x.shape, x.dtype, tuple(value.shape for value in conditioning))
        if key not in self.captured:
            self.captured[key] = self._capture(x, times, conditioning)
        out: Tensor = self.captured[key](x, times, *conditioning)
        return out.clone()

    def _capture(self, x: Tensor, times: Tensor, conditioning: Conditioning) -> Any:
        def ask(x: Tensor, times: Tensor, *conditioning: Tensor) -> Tensor:
            return self.inner(x, times, conditioning)

        with torch.enable_grad():
            given = [value.detach().clone() for value in (times, *conditioning)]
            first = x.detach().clone().requires_grad_()
            return torch.cuda.make_graphed_callables(ask, (first, *given))
