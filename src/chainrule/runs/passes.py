"""Counting how often a network is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from chainrule.diffusion.denoiser import Conditioning, Network
from chainrule.models import Model


@dataclass
class Passes:
    """Evaluations of the network on one latent. A guidance pair is two.

    Args:
        forward: Those forwards, rebuilt ones included.
        backward: Those backwards.
    """

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.forward + self.backward


class CountedNetwork(Network):
    """A network whose evaluations are counted.

    Args:
        inner: The network.
        passes: Where they are counted.
    """

    def __init__(self, inner: Network, passes: Passes) -> None:
        self.inner, self.passes = inner, passes
        self.schedule, self.parameterization = inner.schedule, inner.parameterization

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return self.inner.weights

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.inner.networks

    @property
    def module(self) -> Any:
        """The module of diffusers inside, if there is one."""
        return getattr(self.inner, "module", None)

    def __call__(self, x: Tensor, t: float | Tensor, conditioning: Conditioning) -> Tensor:
        out = self.inner(x, t, conditioning)
        self.passes.forward += len(x)
        if out.requires_grad:
            out.register_hook(self._count_backward)
        return out

    def _count_backward(self, gradient: Tensor) -> None:
        self.passes.backward += len(gradient)


def count_passes(model: Model) -> tuple[Model, Passes]:
    """The same model with its network's evaluations counted, and the count."""
    passes = Passes()
    return replace(model, network=CountedNetwork(model.network, passes)), passes
