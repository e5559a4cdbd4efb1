"""What a run's state shows, at next to no cost: a linear map from latents to colours.

    rgb(cell) = A z(cell) + b

fitted by least squares on what the model's own decoder makes of a run's first images, once. A model
of pixels needs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.models import Model

PLACES = ("best_latents", "latents")
"""Where states keep the latents of their images, the best ones first."""
RIDGE = 1e-3
SIDE = 192
"""How large a preview is shown, in pixels, at least."""


@dataclass(frozen=True, eq=False)
class Preview:
    """The map of a model.

    Args:
        weights: (C + 1, 3); None where latents are the picture.
    """

    weights: Tensor | None

    def __call__(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, n h, n w) in [0, 1] of latents (B, C, h, w), on the CPU."""
        z = latents.detach().float().cpu()
        if self.weights is None:
            image = z
        else:
            image = torch.einsum("bchw,cr->brhw", _with_one(z), self.weights)
        often = max(1, SIDE // image.shape[-1])
        return functional.interpolate(image.clamp(0, 1), scale_factor=often, mode="nearest")


@torch.no_grad()
def fit_preview(model: Model, latents: Tensor) -> Preview:
    """The map that comes nearest to a model's decoder on some latents.

    Args:
        model: The model.
        latents: Of its images, as a run's first ones: (B, C, h, w). They are decoded once.
    """
    if model.codec.factor == 1:
        return Preview(None)
    images = torch.cat([model.decode(part[None].to(model.device)).cpu() for part in latents])
    z = _with_one(latents.float().cpu())
    colours = functional.adaptive_avg_pool2d(images.float(), (z.shape[-2], z.shape[-1]))
    rows, wanted = (each.movedim(1, -1).flatten(0, -2) for each in (z, colours))
    gram = rows.T @ rows + RIDGE * len(rows) * torch.eye(rows.shape[1])
    return Preview(torch.linalg.solve(gram, rows.T @ wanted))


def read_latents(state: Path) -> Tensor | None:
    """The latents (B, C, h, w) of a method's state; None if there are none, or it is being written.

    Args:
        state: Its file (`Folder.state_path`).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(state, framework="pt", device="cpu") as file:
            names = set(file.keys())
            name = next((each for each in PLACES if each in names), None)
            return None if name is None else file.get_tensor(name)
    except (OSError, SafetensorError):
        return None


def _with_one(z: Tensor) -> Tensor:
    """Latents with a channel of ones, (B, C + 1, h, w)."""
    return torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
