"""What a recognition network is shown: images resized and normalised as it expects.

All of it is differentiable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

    Args:
        size: The height and width that the network takes, in pixels.
        mean: The mean of each channel in its training, in [0, 1].
        std: The standard deviation of each channel in its training.
        flipped: Whether the network wants blue first.
        dtype: That of the network's weights.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    flipped: bool = False
    dtype: torch.dtype = torch.float32

    def __call__(self, images: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != self.size:
            images = functional.interpolate(
                images, self.size, mode="bilinear", antialias=True, align_corners=False
            )
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self.mean, self.std))
        pixels = ((images - mean) / std).to(self.dtype)
        return pixels.flip(1) if self.flipped else pixels


def load_pretrained(auto_class: str, name: str | Path, what: str) -> tuple[Any, Preprocess]:
    """A `transformers` vision network, frozen, and what it is to be shown.

    Only a download shows a progress bar, and no code that comes with the weights is run.

    Args:
        auto_class: The name of the class that loads it, as in "AutoModel".
        name: A folder, or a name on the hub.
        what: Its kind in words, for messages: "image classifier".

    Returns:
        The network, in float32, and the preprocessing that its folder names.

    Raises:
        UserError: There is none of that name, or it is of another kind.
    """
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin

    source = str(Path(name).expanduser())
    if str(name).startswith((".", "/", "~")) and not Path(source).is_dir():
        raise UserError(f"there is no {what} at {name}", "name a folder or a model on the hub")
    loader = getattr(transformers, auto_class)
    try:
        with quiet_transformers(bars=not Path(source).is_dir()):  # a download shows how far it is
            network = loader.from_pretrained(source, dtype=torch.float32, trust_remote_code=False)
            settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{source!r} cannot be loaded as {_article(what)} ({reason})", "check the name"
        ) from error
    return network.eval().requires_grad_(False), _preprocess(settings)


@contextmanager
def quiet_transformers(*, bars: bool = False) -> Iterator[None]:
    """Within it, transformers does not report what it loads; it draws progress bars if `bars`."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    hide = logging.is_progress_bar_enabled() and not bars
    logging.set_verbosity_error()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if hide:
            logging.enable_progress_bar()


def load_weights(path: str | Path, what: str) -> dict[str, Tensor]:
    """The state dict in a file that holds nothing but tensors.

    Args:
        path: A safetensors file, or one of PyTorch.
        what: What it should be, in words, for messages: "a VGG".

    Raises:
        UserError: There is no such file, or it is not a state dict.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}", f"name the weights of {what}") from None
    except Exception as error:  # both libraries raise many kinds
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as the weights of {what} ({reason})",
            "name a safetensors file, or a state dict of tensors only",
        ) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} holds no state dict", f"name the weights of {what}")
    return found


def _article(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _preprocess(settings: dict[str, Any]) -> Preprocess:
    """What a preprocessor's settings ask for. Without a mean there, nothing is normalised."""
    mean, std = settings.get("image_mean"), settings.get("image_std")
    flipped = bool(settings.get("do_flip_channel_order", False))
    if not settings.get("do_normalize", mean is not None):
        return Preprocess(_size(settings), (0.0,) * 3, (1.0,) * 3, flipped)
    half = (0.5,) * 3
    return Preprocess(_size(settings), tuple(mean or half), tuple(std or half), flipped)


def _size(settings: dict[str, Any]) -> tuple[int, int]:
    """The input size in a preprocessor's settings, which have had several forms over the years."""
    size = settings.get("crop_size") or settings.get("size") or 224
    if isinstance(size, int):
        return size, size
    edge = size.get("shortest_edge")
    return (edge, edge) if edge else (size["height"], size["width"])
