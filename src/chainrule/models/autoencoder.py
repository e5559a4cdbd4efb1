"""The autoencoder of a diffusers pipeline, and the sizes of images that it allows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.errors import UserError
from chainrule.models.backbone import GradientScaling
from chainrule.models.base import Codec, clamp_with_gradient

Sides = int | Sequence[int] | None
"""The sides of latents in a configuration: one number, (h, w), or nothing."""

MORE = {
    5: "it sees a depth map too, as depth2img does",
    7: "it sees a small picture too, as an upscaler does",
    8: "it sees a photo too, as InstructPix2Pix does",
}
"""What networks of so many channels are."""
FAR = 2.0
"""How many times the pixels of what a network learnt from, or which part of them, is much."""


@dataclass(frozen=True, eq=False)
class Autoencoder(Codec):
    """An `AutoencoderKL` or `AutoencoderTiny`; its own z is `scale` latents + `shift`.

    Args:
        vae: The diffusers model.
        latent_shape: The latents' (C, h, w) for images of the model's own size.
        factor: The width and height of a latent, in pixels.
        multiple: The sides of an image, in pixels, are multiples of this.
        photo_multiple: What the sides of a photo are made multiples of; None: `multiple`.
        float32_in_half: Whether it stays in float32 when the model is cast to float16.
    """

    vae: Any
    latent_shape: tuple[int, int, int]
    factor: int
    multiple: int
    photo_multiple: int | None = None
    float32_in_half: bool = False

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.vae,)

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        scale, shift = self._affine(latents)
        scaling = GradientScaling(on=self.vae.dtype == torch.float16)
        z = scaling.leave(latents * scale + shift).to(self.vae.dtype)
        decoded = scaling.enter(self.vae.decode(z).sample.to(latents.dtype))
        images = decoded / 2 + 0.5
        return clamp_with_gradient(images) if clamp else images

    def encode(self, images: Tensor) -> Tensor:
        encoded = self.vae.encode((images * 2 - 1).to(self.vae.dtype))
        is_kl = hasattr(encoded, "latent_dist")
        z = (encoded.latent_dist.mode() if is_kl else encoded.latents).to(images.dtype)
        scale, shift = self._affine(z)
        return (z - shift) / scale

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift (C or 1, 1, 1) in the dtype and on the device of `like`."""
        config = self.vae.config
        std, mean = (config.get(name) for name in ("latents_std", "latents_mean"))
        if std is None or mean is None:
            std, mean = [1.0], [config.get("shift_factor") or 0.0]
        scale, shift = (like.new_tensor(value)[:, None, None] for value in (std, mean))
        return scale / config.scaling_factor, shift


def read_autoencoder(
    pipeline: Any,
    channels: int,
    patch: int,
    default: Sides,
    size: tuple[int, int] | None,
    even: int = 1,
) -> Autoencoder:
    """The autoencoder of a pipeline.

    Args:
        pipeline: The diffusers pipeline.
        channels: How many channels the diffusion network takes.
        patch: The multiples, in latents, that the network's sides come in.
        default: The sides of its latents if no size is given.
        size: The images' (height, width) in pixels, or None.
        even: The multiples, in latents, that the network halves without a rest: a photo is fitted
            to these.

    Raises:
        UserError: The network takes more than latents, or images of that size are not possible.
    """
    vae = pipeline.vae
    if channels != vae.config.latent_channels:
        raise UserError(
            f"the network takes {channels} channels and the autoencoder makes "
            f"{vae.config.latent_channels}" + (f" ({MORE[channels]})" if channels in MORE else ""),
            "choose a checkpoint that sees nothing but the latents, or one for inpainting",
            "model",
        )
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    multiple = factor * patch
    sides = latent_sides(size, default, factor, multiple)
    return Autoencoder(vae, (channels, *sides), factor, multiple, multiple * even)


def latent_sides(
    size: tuple[int, int] | None, default: Sides, factor: int, multiple: int
) -> tuple[int, int]:
    """The latents' (h, w) for images of a size.

    Args:
        size: The images' (height, width) in pixels; None means latents of `default`.
        default: The sides that the checkpoint's configuration names.
        factor: The width and height of a latent, in pixels.
        multiple: The images' sides are multiples of this, in pixels.

    Raises:
        UserError: Such images are not possible, or no size is known.
    """
    if size is None:
        if default is None:
            raise UserError(
                "this checkpoint does not say how large its images are", "name a size", "size"
            )
        height, width = (default, default) if isinstance(default, int) else default
        return height, width
    whole = isinstance(size, tuple) and all(isinstance(side, int) for side in size)
    if not whole or len(size) != 2:
        raise UserError(f"a size is (height, width) in whole pixels, not {size!r}", field="size")
    height, width = size
    if min(size) <= 0 or height % multiple or width % multiple:
        raise UserError(
            f"images of {height}x{width} pixels are not possible",
            f"this model's sides are multiples of {multiple}",
            "size",
        )
    _warn_if_far(size, default, factor)
    return height // factor, width // factor


def _warn_if_far(size: tuple[int, int], default: Sides, factor: int) -> None:
    """Say it if images have many more or fewer pixels than those that the network learnt from."""
    if default is None:
        return
    h, w = (factor * side for side in ((default, default) if isinstance(default, int) else default))
    (height, width), share = size, size[0] * size[1] / (h * w)
    if not 1 / FAR <= share <= FAR:
        seen = "show things twice" if share > 1 else "be blurred or show nothing"
        warnings.warn(
            f"images of {height}x{width} have {share:.3g} times the pixels of the {h}x{w} that "
            f"this checkpoint was trained for, so that they may {seen}: choose a size nearer to "
            "it, and enlarge or shrink the images afterwards",
            stacklevel=2,
        )
