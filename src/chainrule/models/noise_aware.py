"""Small networks that see noisy latents: a classifier and an image encoder, for guidance that needs no guess of x0."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from chainrule import bundled
from chainrule.errors import UserError


class NoiseAware(ModelMixin, ConfigMixin, ABC):
    """Residual convolutions whose norms see the noise level, on `(x_t (B, C, h, w), t (B,))`; `t` are timesteps."""

    def _build(self, in_channels: int, width: int, out: int) -> None:
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        widths = (width, 2 * width, 2 * width)
        self.blocks = nn.ModuleList(
            _Block(before, after, 2 * width) for before, after in zip((width, *widths), widths, strict=False)
        )
        self.embedding = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width))
        self.head = nn.Sequential(nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.out = nn.Linear(widths[-1], out)

    def features(self, x_t: Tensor, t: Tensor) -> list[Tensor]:
        """What each block sees, (B, C', h', w'), from the finest to the coarsest."""
        embedding = self.embedding(get_timestep_embedding(t, self.config["width"]).to(x_t.dtype))
        h = self.stem(x_t)
        return [h := block(h, embedding) for block in self.blocks]

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(B, out)."""
        return self.out(self.head(self.features(x_t, t)[-1]))


class NoiseAwareClassifier(NoiseAware):
    """The logit of each label."""

    @register_to_config
    def __init__(self, in_channels: int = 4, width: int = 48, labels: list[str] | None = None) -> None:
        super().__init__()
        self.labels = tuple(labels or ())
        self._build(in_channels, width, len(self.labels))


class NoiseAwareEncoder(NoiseAware):
    """An embedding of `dim` numbers in the space of the CLIP that it was trained beside (Liu et al. 2021)."""

    @register_to_config
    def __init__(self, in_channels: int = 4, width: int = 48, dim: int = 64) -> None:
        super().__init__()
        self._build(in_channels, width, dim)


def load_noise_aware_encoder(device: str | torch.device = "cpu") -> NoiseAwareEncoder:
    """The bundled encoder of noisy latents, in the space of the bundled CLIP (`chainrule.losses.load_clip`), frozen."""
    network = NoiseAwareEncoder.from_pretrained(bundled.NOISE_AWARE_ENCODER, dtype=torch.float32)
    return network.to(device).eval().requires_grad_(False)  # type: ignore[no-any-return]


def load_noise_aware(target: str, device: str | torch.device = "cpu") -> Callable[[Tensor, float], Tensor]:
    """The energy of the bundled noise-aware classifier, (x_t (B, C, h, w), t) -> (B,): how far it is from `target`.

    The loss of its training, binary cross-entropy. Raises UserError if it does not know the class.
    """
    network = NoiseAwareClassifier.from_pretrained(bundled.NOISE_AWARE, dtype=torch.float32)
    network = network.to(device).eval().requires_grad_(False)
    if target not in network.labels:
        raise UserError(f"the noise-aware classifier has no class {target!r}; it has {', '.join(network.labels)}")
    index = network.labels.index(target)

    def energy(x_t: Tensor, t: float) -> Tensor:
        logits = network(x_t.float(), torch.full((len(x_t),), t, device=x_t.device)).to(x_t.dtype)
        wanted = torch.zeros_like(logits)
        wanted[:, index] = 1.0
        return nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)

    return energy


class _Block(nn.Module):
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
        even = nn.functional.pad(h, (0, h.shape[3] % 2, 0, h.shape[2] % 2), mode="replicate")
        return torch.add(out, self.skip(even))
