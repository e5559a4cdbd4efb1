"""What a run's state shows, at little cost: by a tiny autoencoder if there is one, or a linear map

    rgb(cell) = A z(cell) + b

fitted by least squares on what the model's own decoder makes of a run's first images, once. Which
of them comes nearest to these pictures is taken. A model of pixels needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.models import Model
from chainrule.models.autoencoder import Autoencoder

PLACES = ("best_latents", "latents")
"""Where states keep the latents of their images, the best ones first."""
RIDGE = 1e-3
SIDE = 192
"""How large a preview is shown, in pixels, at least."""
TINY = ("madebyollin/taesd", "madebyollin/taesdxl", "madebyollin/taesd3", "madebyollin/taef1")
"""Tiny autoencoders for the latents of Stable Diffusion 1 and 2, of XL, of 3 and of Flux, as the
hub calls them: used if they are in its cache, and never fetched."""
Draw = Callable[[Tensor], Tensor]
"""From latents (B, C, h, w) on the CPU to pictures (B, 3, H, W) in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Preview:
    """Pictures of latents at little cost.

    Args:
        draw: Makes them.
    """

    draw: Draw

    def __call__(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, n H, n W) in [0, 1] of latents (B, C, h, w), on the CPU."""
        image = self.draw(latents.detach().float().cpu())
        often = max(1, SIDE // image.shape[-1])
        return functional.interpolate(image.clamp(0, 1), scale_factor=often, mode="nearest")


@torch.no_grad()
def fit_preview(model: Model, latents: Tensor) -> Preview:
    """The way that comes nearest to a model's decoder on some latents.

    Args:
        model: The model.
        latents: Of its images, as a run's first ones: (B, C, h, w). They are decoded once.
    """
    if model.codec.factor == 1:
        return Preview(lambda z: z)
    images = torch.cat([model.decode(part[None].to(model.device)).cpu() for part in latents])
    ways = (fit_colours(latents, images), *find_tiny(model))

    def measure(preview: Preview) -> float:
        shown = functional.interpolate(preview(latents), images.shape[-2:], mode="bilinear")
        return (shown - images).abs().mean().item()

    return min(map(Preview, ways), key=measure)


def fit_colours(latents: Tensor, images: Tensor) -> Draw:
    """The linear map from the latents of each place to the colour that is there.

    Args:
        latents: (B, C, h, w).
        images: What they decode to, (B, 3, H, W) in [0, 1].
    """
    z = _with_one(latents.float().cpu())
    colours = functional.adaptive_avg_pool2d(images.float(), (z.shape[-2], z.shape[-1]))
    rows, wanted = (each.movedim(1, -1).flatten(0, -2) for each in (z, colours))
    gram = rows.T @ rows + RIDGE * len(rows) * torch.eye(rows.shape[1])
    weights = torch.linalg.solve(gram, rows.T @ wanted)
    return lambda z: torch.einsum("bchw,cr->brhw", _with_one(z), weights)


def find_tiny(model: Model) -> Iterator[Draw]:
    """The tiny autoencoders for a model's latents: its own, and those of the cache."""
    from diffusers import AutoencoderTiny
    from huggingface_hub import constants, try_to_load_from_cache

    codec, cache = model.codec, constants.HF_HUB_CACHE
    if not isinstance(codec, Autoencoder):
        return
    if isinstance(codec.vae, AutoencoderTiny):
        yield lambda z: model.decode(z.to(model.device)).float().cpu()
    for name in TINY:
        config = try_to_load_from_cache(name, "config.json", cache)
        if not isinstance(config, str):
            continue
        try:
            tiny = AutoencoderTiny.from_pretrained(Path(config).parent, use_safetensors=True)
        except (OSError, ValueError):  # fetched in part
            continue
        if tiny.config.latent_channels == codec.latent_shape[0]:
            yield replace(codec, vae=tiny.eval()).decode


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
