"""What the tests share: denoisers whose answers are known in closed form, and tiny networks."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from chainrule.diffusion.denoiser import (
    Conditioned,
    Conditioning,
    Denoiser,
    Epsilon,
    Network,
    Parameterization,
    Prediction,
    Velocity,
)
from chainrule.diffusion.schedule import Schedule, VariancePreserving
from chainrule.diffusion.time_grids import leading
from chainrule.models import Codec, Model, Text

STABLE_DIFFUSION = leading(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # in the background it is ignored, and would be by the programs that tests start and stop
    signal.signal(signal.SIGINT, signal.default_int_handler)


def scaled_linear(spacing=STABLE_DIFFUSION, final: float | None = None) -> VariancePreserving:
    """Stable Diffusion's schedule."""
    alpha_bar = (
        1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    ).cumprod(0)
    return VariancePreserving(alpha_bar, alpha_bar[0].item() if final is None else final, spacing)


class Gaussian(Denoiser):
    """The exact denoiser of data distributed as N(mean, spread^2 I)."""

    networks = ()

    def __init__(
        self,
        mean: Tensor,
        spread: float,
        schedule: Schedule,
        parameterization: Parameterization | None = None,
    ) -> None:
        self.mean, self.spread = mean, spread
        self._schedule, self._parameterization = schedule, parameterization or Epsilon()

    @property
    def schedule(self) -> Schedule:
        return self._schedule

    @property
    def parameterization(self) -> Parameterization:
        return self._parameterization

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.mean,) if self.mean.requires_grad else ()

    def __call__(self, x: Tensor, t: float) -> Prediction:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        gain = alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2)
        x0 = self.mean + gain * (x - alpha * self.mean)
        eps = sigma / (alpha**2 * self.spread**2 + sigma**2) * (x - alpha * self.mean)
        return Prediction(x0, eps)

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        """Where the probability-flow ODE takes `x` from t to s."""

        def std(time: float) -> Tensor:
            return (
                self.schedule.alpha(time) ** 2 * self.spread**2 + self.schedule.sigma(time) ** 2
            ).sqrt()

        return self.schedule.alpha(s) * self.mean + std(s) / std(t) * (
            x - self.schedule.alpha(t) * self.mean
        )


class TinyNetwork(Network):
    """A few smooth layers in float64 that count their calls; `kind` is what they predict."""

    def __init__(
        self, parameterization: Parameterization | None = None, dtype: torch.dtype = torch.float64
    ) -> None:
        torch.manual_seed(0)
        self.schedule = scaled_linear()
        self.parameterization = parameterization or Epsilon()
        self.layers = nn.ModuleList(
            [nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1), nn.Linear(3, 6)]
        )
        self.layers.to(dtype).requires_grad_(False)
        self.calls = 0

    def __call__(self, x: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        self.calls += 1
        first, last, text = self.layers
        (c,), dtype = conditioning, first.weight.dtype
        times = torch.as_tensor(t, dtype=dtype).expand(len(x))[:, None, None, None]
        h = torch.tanh(first(x.to(dtype)) + text(c.to(dtype))[:, :, None, None] + times / 1000)
        return 0.5 * x + last(h).to(x.dtype)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(self.layers.parameters())

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.layers,)


@pytest.fixture(params=[Epsilon(), Velocity()], ids=["epsilon", "velocity"])
def network(request: pytest.FixtureRequest) -> TinyNetwork:
    return TinyNetwork(request.param)


def conditioned(network: Network, batch: int = 2, *, seed: int = 1) -> Conditioned:
    c = torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Conditioned(network, (c,))


def latents(batch: int = 2, *, seed: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TinyCodec(Codec):
    """A smooth map from latents (2, 4, 4) to images (3, 8, 8)."""

    latent_shape = (2, 4, 4)
    factor = 2
    multiple = 2

    def decode(self, latents: Tensor) -> Tensor:
        images = torch.cat([latents, latents.sum(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(nn.functional.interpolate(images, scale_factor=2.0))

    def encode(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(torch.logit(images[:, :2], 1e-4), 2)


class TinyText(Text):
    """A prompt's conditioning is drawn from its length."""

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        return (
            torch.stack(
                [torch.randn(3, generator=torch.Generator().manual_seed(len(p))) for p in prompts]
            ),
        )


def tiny_model() -> Model:
    network = TinyNetwork(dtype=torch.float32)
    return Model("tiny", network, TinyCodec(), TinyText(), 2.0, torch.device("cpu"))
