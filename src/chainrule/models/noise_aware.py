"""Small networks that see noisy latents, for guidance that needs no guess of x0.

A classifier, and an image encoder in the space of a world's CLIP.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from chainrule.bundled import find_network
from chainrule.errors import UserError


class NoiseAware(ModelMixin, ConfigMixin, ABC):
    """Residual convolutions whose norms see the noise level."""

    def _build(self, in_channels: int, width: int, out: int) -> None:
        """Make the layers.

        Args:
            in_channels: The channels of the latents.
            width: The channels of the first block's input; the others have twice as many.
            out: How many numbers to return for an image.
        """
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        widths = (width, 2 * width, 2 * width)
        self.blocks = nn.ModuleList(
            _Block(before, after, 2 * width)
            for before, after in zip((width, *widths), widths, strict=False)
        )
        self.embedding = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width)
        )
        self.head = nn.Sequential(
            nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.out = nn.Linear(widths[-1], out)

    def features(self, x_t: Tensor, t: Tensor) -> list[Tensor]:
        """What each block sees.

        Args:
            x_t: Noisy latents (B, C, h, w).
            t: Their training timesteps (B,).

        Returns:
            Features (B, C', h', w'), from the finest to the coarsest.
        """
        embedding = self.embedding(get_timestep_embedding(t, self.config["width"]).to(x_t.dtype))
        h = self.stem(x_t)
        return [h := block(h, embedding) for block in self.blocks]

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The numbers (B, out) of noisy latents (B, C, h, w) at training timesteps `t` (B,)."""
        return self.out(self.head(self.features(x_t, t)[-1]))


class NoiseAwareClassifier(NoiseAware):
    """The logit of each label.

    Args:
        in_channels: The channels of the latents.
        width: The channels of the first block's input.
        labels: The names of the classes.
    """

    @register_to_config
    def __init__(
        self, in_channels: int = 4, width: int = 48, labels: list[str] | None = None
    ) -> None:
        super().__init__()
        self.labels = tuple(labels or ())
        self._build(in_channels, width, len(self.labels))


class NoiseAwareEncoder(NoiseAware):
    """An embedding in the space of the CLIP that it was trained beside (Liu et al. 2021).

    Args:
        in_channels: The channels of the latents.
        width: The channels of the first block's input.
        dim: The size of the embedding.
    """

    @register_to_config
    def __init__(self, in_channels: int = 4, width: int = 48, dim: int = 64) -> None:
        super().__init__()
        self._build(in_channels, width, dim)


def load_noise_aware_encoder(
    device: str | torch.device = "cpu", world: str | None = None
) -> NoiseAwareEncoder:
    """The encoder of a world's noisy latents, frozen.

    Its space is that of the world's CLIP (`chainrule.losses.load_clip`).

    Args:
        device: Where it runs.
        world: The world's name; None: the shapes'.

    Raises:
        UserError: The world has none here.
    """
    folder = find_network(world, "noise_aware_encoder")
    found: NoiseAwareEncoder = _load(NoiseAwareEncoder, folder, device)
    return found


@dataclass(frozen=True, eq=False)
class ClassEnergy:
    """How far noisy latents are from a class: the loss of the classifier's training.

    Args:
        network: The classifier.
        target: The class.
    """

    network: NoiseAwareClassifier
    target: str

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks."""
        return (self.network,)

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        """(B,) for latents `x_t` (B, C, h, w) at time `t`: binary cross-entropy."""
        times = torch.full((len(x_t),), t, device=x_t.device)
        logits = self.network(x_t.float(), times).to(x_t.dtype)
        labels = torch.zeros_like(logits)
        labels[:, self.network.labels.index(self.target)] = 1.0
        losses = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return losses.mean(dim=1)


def load_noise_aware(
    target: str, device: str | torch.device = "cpu", world: str | None = None
) -> ClassEnergy:
    """The energy of a world's noise-aware classifier.

    Args:
        target: The class that noisy latents should be of.
        device: Where the classifier runs.
        world: The world's name; None: the shapes'.

    Raises:
        UserError: There is no such class, or the world has no such classifier here.
    """
    network = _load(NoiseAwareClassifier, find_network(world, "noise_aware"), device)
    if target not in network.labels:
        raise UserError(
            f"the noise-aware classifier has no class {target!r}",
            f"choose among {', '.join(network.labels)}",
            "target",
        )
    return ClassEnergy(network, target)


def _load(kind: Any, folder: Any, device: str | torch.device) -> Any:
    """A network of the class `kind` from its folder, frozen."""
    network = kind.from_pretrained(folder, dtype=torch.float32)
    return network.to(device).eval().requires_grad_(False)


class _Block(nn.Module):
    """Halves the resolution; the embedding of the noise level scales and shifts in between."""

    def __init__(self, before: int, after: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, before)
        self.first = nn.Conv2d(before, after, 3, stride=2, padding=1)
        self.scale = nn.Linear(embedding, 2 * after)
        self.middle = nn.GroupNorm(8, after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 2, stride=2)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        out = self.first(nn.functional.silu(self.norm(h)))
        scale, shift = self.scale(embedding)[:, :, None, None].chunk(2, dim=1)
        out = self.second(nn.functional.silu(self.middle(out) * (1 + scale) + shift))
        height, width = h.shape[2:]
        even = nn.functional.pad(h, (0, width % 2, 0, height % 2), mode="replicate")
        return torch.add(out, self.skip(even))
