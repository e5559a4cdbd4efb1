"""A small classifier of noisy latents, for noise-aware classifier guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from chainrule import bundled
from chainrule.errors import UserError


class NoiseAwareClassifier(ModelMixin, ConfigMixin):
    """Residual convolutions that see the noise level: `(x_t (B, C, h, w), t (B,)) -> logits (B, labels)`."""

    @register_to_config
    def __init__(self, in_channels: int = 4, width: int = 48, labels: list[str] | None = None) -> None:
        super().__init__()
        self.labels = tuple(labels or ())
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        widths = (width, 2 * width, 2 * width)
        self.blocks = nn.ModuleList(
            _Block(before, after, 2 * width) for before, after in zip((width, *widths), widths, strict=False)
        )
        self.embedding = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width))
        self.head = nn.Sequential(nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.out = nn.Linear(widths[-1], len(self.labels))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The logit of each label; `t` are training timesteps (0..999)."""
        embedding = self.embedding(get_timestep_embedding(t, self.config["width"]).to(x_t.dtype))
        h = self.stem(x_t)
        for block in self.blocks:
            h = block(h, embedding)
        return self.out(self.head(h))


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
        return torch.add(out, self.skip(h))
