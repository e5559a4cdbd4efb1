"""Networks that fill in: they see a mask and the rest of a picture beside the noisy latents.

Stable Diffusion's inpainting checkpoints (Rombach et al. 2022, section 4.5) take nine channels:
the latents, the mask (1 where there is something to fill in), and the latents of the picture with
grey in the place of what is masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.diffusion.denoiser import Conditioning
from chainrule.errors import UserError
from chainrule.models.autoencoder import Autoencoder
from chainrule.models.backbone import Backbone


def fills_in(pipeline: Any) -> bool:
    """Whether the network of a pipeline sees a mask and a picture beside the latents."""
    channels: int = pipeline.vae.config.latent_channels
    return bool(pipeline.unet.config.in_channels == 2 * channels + 1)


@dataclass(frozen=True, eq=False)
class Inpainting(Backbone):
    """The conditioning is that of `inner`, and then (mask and picture (B, 1 + C, h, w))."""

    inner: Backbone

    @property
    def channels(self) -> int | None:
        total = self.inner.channels  # latents, a mask, latents
        return None if total is None else (total - 1) // 2

    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        *rest, seen = conditioning or (x,)
        if seen.ndim != 4 or seen.shape[1] != x.shape[1] + 1:
            self._check_shapes(x, tuple(rest))  # perhaps the latents are to blame
            raise UserError(
                "an inpainting network is told a picture and a mask",
                "let model.denoiser make its conditioning",
            )
        if seen.shape[2:] != x.shape[2:]:
            raise UserError(
                f"the network was told of a picture of {_write(seen)} latents, and these are "
                f"{_write(x)}",
                "give model.denoiser the photo",
                "photo",
            )
        return self.inner.call(torch.cat([x, seen], dim=1), t, tuple(rest))


@dataclass(frozen=True, eq=False)
class Picture:
    """What a network is told of photos: of none, that there is everything to fill in.

    Args:
        codec: Encodes them.
        device: Where it runs.
    """

    codec: Autoencoder
    device: torch.device

    @torch.no_grad()
    def __call__(self, photo: Tensor | None, mask: Tensor | None) -> Conditioning:
        """(mask and latents (B, 1 + C, h, w),).

        Args:
            photo: (B, 3, H, W) in [0, 1], or None.
            mask: (B, 1, H, W) in [0, 1], where it may change; None: everywhere.

        Raises:
            UserError: They are not of these shapes.
        """
        if photo is None:
            if mask is not None:
                raise UserError("a mask is a part of a picture", "name the photo", "photo")
            sides = (side * self.codec.factor for side in self.codec.latent_shape[1:])
            photo = torch.full((1, 3, *sides), 0.5)
        _check_photo(photo, self.codec.multiple)
        if mask is None:
            mask = torch.ones_like(photo[:, :1])
        if mask.ndim != 4 or mask.shape[1:] != (1, *photo.shape[2:]):
            raise UserError(
                f"the mask is {tuple(mask.shape)}",
                f"make it (B, 1, {photo.shape[2]}, {photo.shape[3]}), like the photo",
                "mask",
            )
        photo, free = photo.to(self.device), (mask.to(self.device) >= 0.5).float()
        latents = self.codec.encode(torch.where(free > 0, 0.5, photo))
        shrunk = functional.interpolate(free, latents.shape[2:])  # the nearest, as it was trained
        batch = max(len(shrunk), len(latents))
        both = [value.expand(batch, -1, -1, -1) for value in (shrunk, latents)]
        return (torch.cat(both, dim=1),)


def _check_photo(photo: Tensor, multiple: int) -> None:
    if photo.ndim != 4 or photo.shape[1] != 3 or any(side % multiple for side in photo.shape[2:]):
        raise UserError(
            f"the photo is {tuple(photo.shape)}",
            f"make it (B, 3, H, W), H and W multiples of {multiple} (`model.codec.fit`)",
            "photo",
        )


def _write(value: Tensor) -> str:
    return "x".join(map(str, value.shape[2:]))
