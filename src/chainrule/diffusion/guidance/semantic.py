"""Liu et al., "More Control for Free! Image Synthesis with Semantic Diffusion Guidance", 2021.

Energies of a noisy latent, by an image encoder E' that was trained to see through the noise (its norms are told t):

    text      -E'(x_t, t) . E_L(text)                                       eq. 6
    image     -E'(x_t, t) . E'(x'_t, t)                                     eq. 7
    layout    mean_j |E'_j(x_t, t) - E'_j(x'_t, t)|^2 / |E'_j(x'_t, t)|^2   eq. 8
    style     mean_j |G'_j(x_t, t) - G'_j(x'_t, t)|^2 / |G'_j(x'_t, t)|^2   eq. 9

x'_t is the reference with noise; the layers are divided by their size there, so that none drowns the others. `Mixed`
adds them (eq. 10); `chainrule.diffusion.guidance.NoiseAware` guides by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from chainrule.diffusion.denoiser import some
from chainrule.diffusion.guidance.base import Energy, select_energy
from chainrule.losses.perceptual import gram
from chainrule.noise import Noise
from chainrule.diffusion.schedule import Schedule

REFERENCE = Noise((0,))
"""The noise on a reference, the same for all images."""


class NoisyEncoder(Protocol):
    """E': `(x_t (B, C, h, w), t (B,)) -> (B, D)`, and the `features` of its layers, (B, C_j, h_j, w_j) each."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor: ...

    def features(self, x_t: Tensor, t: Tensor) -> Sequence[Tensor]: ...


@dataclass(frozen=True, eq=False)
class Text:
    """How far the picture is from a text, whose embedding is `target` (B or 1, D)."""

    encoder: NoisyEncoder
    target: Tensor

    def select(self, rows: Sequence[int]) -> Text:
        """The same for some of the images."""
        return Text(self.encoder, *some((self.target,), rows))

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return -(_embedded(self.encoder, x, t) * normalize(self.target.to(x), dim=1)).sum(dim=1)


@dataclass(frozen=True, eq=False)
class Likeness:
    """A picture to be like, its latent `x_0` (B or 1, C, h, w)."""

    encoder: NoisyEncoder
    schedule: Schedule
    x_0: Tensor

    def select(self, rows: Sequence[int]) -> Likeness:
        """The same for some of the images."""
        return Likeness(self.encoder, self.schedule, *some((self.x_0,), rows))

    def at(self, t: float) -> Tensor:
        """x'_t."""
        z = REFERENCE.normal(int(t), self.x_0.shape[1:]).to(self.x_0)
        return self.schedule.alpha(t) * self.x_0 + self.schedule.sigma(t) * z


@dataclass(frozen=True, eq=False)
class Image:
    """How far the picture shows something else than the reference."""

    reference: Likeness

    def select(self, rows: Sequence[int]) -> Image:
        """The same for some of the images."""
        return Image(self.reference.select(rows))

    def __call__(self, x: Tensor, t: float) -> Tensor:
        mine, its = (_embedded(self.reference.encoder, each, t) for each in (x, self.reference.at(t)))
        return -(mine * its).sum(dim=1)


@dataclass(frozen=True, eq=False)
class Layout:
    """How far things are from where the reference has them."""

    reference: Likeness

    def select(self, rows: Sequence[int]) -> Layout:
        """The same for some of the images."""
        return Layout(self.reference.select(rows))

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return _apart(*(_features(self.reference.encoder, each, t) for each in (x, self.reference.at(t))))


@dataclass(frozen=True, eq=False)
class Style:
    """How far the picture is from the reference's style, wherever things are."""

    reference: Likeness

    def select(self, rows: Sequence[int]) -> Style:
        """The same for some of the images."""
        return Style(self.reference.select(rows))

    def __call__(self, x: Tensor, t: float) -> Tensor:
        layers = (_features(self.reference.encoder, each, t) for each in (x, self.reference.at(t)))
        return _apart(*([gram(layer.flatten(2)) for layer in each] for each in layers))


@dataclass(frozen=True, eq=False)
class Mixed:
    """The weighted sum of energies."""

    parts: Sequence[tuple[float, Energy]]

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return torch.stack([weight * part(x, t) for weight, part in self.parts]).sum(dim=0)

    def select(self, rows: Sequence[int]) -> Mixed:
        """The same for some of the images."""
        return Mixed([(weight, select_energy(part, rows)) for weight, part in self.parts])


def _times(x: Tensor, t: float) -> Tensor:
    return torch.full((len(x),), t, device=x.device)


def _embedded(encoder: NoisyEncoder, x: Tensor, t: float) -> Tensor:
    return normalize(encoder(x.float(), _times(x, t)), dim=1).to(x.dtype)


def _features(encoder: NoisyEncoder, x: Tensor, t: float) -> list[Tensor]:
    return [layer.to(x.dtype) for layer in encoder.features(x.float(), _times(x, t))]


def _apart(mine: Sequence[Tensor], its: Sequence[Tensor]) -> Tensor:
    """The squared distance of each layer from the reference's, as a share of the reference's; the mean, (B,)."""
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(mine, its, strict=True)]
    return torch.stack([(a - b).square().sum(dim=1) / b.square().sum(dim=1) for a, b in pairs]).mean(dim=0)
