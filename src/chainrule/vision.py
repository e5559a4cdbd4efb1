"""What a recognition network is shown: images resized and normalised as it expects, differentiably."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.errors import UserError


@dataclass(frozen=True)
class Preprocess:
    """`images (B, 3, H, W) in [0, 1] -> (B, 3, *size)`, in the network's `dtype`.

    `size` is the (height, width) that the network takes; `mean` and `std` are those of its training; `flipped` networks
    want blue first.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    flipped: bool = False
    dtype: torch.dtype = torch.float32

    def __call__(self, images: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != self.size:
            images = functional.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self.mean, self.std))
        pixels = ((images - mean) / std).to(self.dtype)
        return pixels.flip(1) if self.flipped else pixels


def load_pretrained(auto_class: str, name: str | Path, what: str) -> tuple[Any, Preprocess]:
    """A `transformers` vision network by folder or hub name, frozen, and what it is to be shown.

    `auto_class` is the class that loads it, `what` its kind in words. Raises UserError if there is none of that name.
    """
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin

    source = str(Path(name).expanduser())
    if str(name).startswith((".", "/", "~")) and not Path(source).is_dir():
        raise UserError(f"there is no {what} at {name}: name a folder or a model on the hub")
    try:
        network = getattr(transformers, auto_class).from_pretrained(source, dtype=torch.float32)
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source!r} cannot be loaded as {_article(what)} ({str(error).splitlines()[0]}): check the name"
        ) from error
    return network.eval().requires_grad_(False), _preprocess(settings)


def load_weights(path: str | Path, what: str) -> dict[str, Tensor]:
    """The state dict in a safetensors file, or in a PyTorch file that holds nothing but tensors.

    `what` says in words what it should be. Raises UserError if there is no such file, or if it is not one.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: name the weights of {what}") from None
    except Exception as error:  # both libraries raise many kinds
        raise UserError(
            f"{path} cannot be read as the weights of {what} ({str(error).splitlines()[0]}): name a safetensors file, "
            "or a state dict of tensors only"
        ) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} holds no state dict: name the weights of {what}")
    return found


def scaled(picture: Tensor, images: Tensor) -> Tensor:
    """`picture` (N, C, h, w) at the size, and in the dtype and on the device, of `images`."""
    picture = picture.to(images)
    if picture.shape[-2:] == images.shape[-2:]:
        return picture
    return functional.interpolate(picture, images.shape[-2:], mode="bilinear", antialias=True, align_corners=False)


def _article(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _preprocess(settings: dict[str, Any]) -> Preprocess:
    """What a preprocessor's settings ask for. Without a mean there, nothing is normalised."""
    mean, std = settings.get("image_mean"), settings.get("image_std")
    flipped = bool(settings.get("do_flip_channel_order", False))
    if not settings.get("do_normalize", mean is not None):
        return Preprocess(_size(settings), (0.0,) * 3, (1.0,) * 3, flipped)
    return Preprocess(_size(settings), tuple(mean or (0.5,) * 3), tuple(std or (0.5,) * 3), flipped)


def _size(settings: dict[str, Any]) -> tuple[int, int]:
    """The input size in a preprocessor's settings, which have had several forms over the years."""
    size = settings.get("crop_size") or settings.get("size") or 224
    if isinstance(size, int):
        return size, size
    edge = size.get("shortest_edge")
    return (edge, edge) if edge else (size["height"], size["width"])
