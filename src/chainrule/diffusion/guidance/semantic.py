"""Liu et al., "More Control for Free! Image Synthesis with Semantic Diffusion Guidance", 2021.

Energies of a noisy latent, by an image encoder E' that was trained to see through the noise
(its norms are told t):

    text      -E'(x_t, t) . E_L(text)                                       eq. 6
    image     -E'(x_t, t) . E'(x'_t, t)                                     eq. 7
    layout    mean_j |E'_j(x_t, t) - E'_j(x'_t, t)|^2 / |E'_j(x'_t, t)|^2   eq. 8
    style     mean_j |G'_j(x_t, t) - G'_j(x'_t, t)|^2 / |G'_j(x'_t, t)|^2   eq. 9

x'_t is the reference with noise; the layers are divided by their size there, so that none
drowns the others. `Mixed` adds them (eq. 10); `chainrule.diffusion.guidance.NoiseAware`
guides by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from chainrule.diffusion.batch import PerImage
from chainrule.diffusion.denoiser import find_networks
from chainrule.diffusion.guidance.base import Energy
from chainrule.diffusion.schedule import Schedule
from chainrule.noise import Noise

REFERENCE = Noise((0,))
"""The noise on a reference, the same for all images."""


class NoisyEncoder(Protocol):
    """E': from noisy latents to embeddings."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The embeddings (B, D) of `x_t` (B, C, h, w) at the timesteps `t` (B,)."""

    def features(self, x_t: Tensor, t: Tensor) -> Sequence[Tensor]:
        """What each layer makes of them, (B, C_j, h_j, w_j)."""


@dataclass(frozen=True, eq=False)
class Text(PerImage):
    """How far the picture is from a text.

    Args:
        encoder: E'.
        target: The text's embedding (B or 1, D).
    """

    encoder: NoisyEncoder
    target: Tensor

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The encoder, if it is a module."""
        return find_networks(self.encoder)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return -(_embed(self.encoder, x, t) * normalize(self.target.to(x), dim=1)).sum(dim=1)


@dataclass(frozen=True, eq=False)
class Likeness(PerImage):
    """A picture to be like.

    Args:
        encoder: E'.
        schedule: What times mean.
        x_0: The picture's latent (B or 1, C, h, w).
    """

    encoder: NoisyEncoder
    schedule: Schedule
    x_0: Tensor

    def at(self, t: float) -> Tensor:
        """x'_t."""
        z = REFERENCE.normal(int(t), self.x_0.shape[1:]).to(self.x_0)
        return self.schedule.mix(self.x_0, z, t)


@dataclass(frozen=True, eq=False)
class _Compared(PerImage):
    """An energy that compares the picture with a reference."""

    reference: Likeness

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The encoder, if it is a module."""
        return find_networks(self.reference.encoder)


class Image(_Compared):
    """How far the picture shows something else than the reference."""

    def __call__(self, x: Tensor, t: float) -> Tensor:
        both = (x, self.reference.at(t))
        mine, its = (_embed(self.reference.encoder, each, t) for each in both)
        return -(mine * its).sum(dim=1)


class Layout(_Compared):
    """How far things are from where the reference has them."""

    def __call__(self, x: Tensor, t: float) -> Tensor:
        both = (x, self.reference.at(t))
        return _compare(*(_find_features(self.reference.encoder, each, t) for each in both))


class Style(_Compared):
    """How far the picture is from the reference's style, wherever things are."""

    def __call__(self, x: Tensor, t: float) -> Tensor:
        both = (x, self.reference.at(t))
        layers = (_find_features(self.reference.encoder, each, t) for each in both)
        return _compare(*([gram(layer.flatten(2)) for layer in each] for each in layers))


@dataclass(frozen=True, eq=False)
class Mixed(PerImage):
    """The weighted sum of energies.

    Args:
        parts: (weight, energy) of each.
    """

    parts: Sequence[tuple[float, Energy]]

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Those of the energies, each once."""
        return find_networks(*(energy for _, energy in self.parts))

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return torch.stack([weight * part(x, t) for weight, part in self.parts]).sum(dim=0)


def gram(features: Tensor) -> Tensor:
    """Which features occur together: (B, C, n) -> (B, C, C)."""
    return features @ features.mT / features[0].numel()


def _times(x: Tensor, t: float) -> Tensor:
    return torch.full((len(x),), t, device=x.device)


def _embed(encoder: NoisyEncoder, x: Tensor, t: float) -> Tensor:
    return normalize(encoder(x.float(), _times(x, t)), dim=1).to(x.dtype)


def _find_features(encoder: NoisyEncoder, x: Tensor, t: float) -> list[Tensor]:
    return [layer.to(x.dtype) for layer in encoder.features(x.float(), _times(x, t))]


def _compare(mine: Sequence[Tensor], its: Sequence[Tensor]) -> Tensor:
    """The squared distance of layers from the reference's as a share of those; the mean, (B,)."""
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(mine, its, strict=True)]
    shares = [(a - b).square().sum(dim=1) / b.square().sum(dim=1) for a, b in pairs]
    return torch.stack(shares).mean(dim=0)
