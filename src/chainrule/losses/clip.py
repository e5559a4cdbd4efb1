"""Losses in the space that CLIP shares between texts and images: text guidance and personalisation (DOODL section 5).

    loss = 2 arcsin(|u - v| / 2)^2        u, v the unit embeddings of the image and of what it should be like

half the square of the angle between them. (Eq. 10 of the paper prints it with a slip; this is the form of the source
that it cites, Crowson et al., "VQGAN-CLIP", 2022.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.losses.base import Term
from chainrule.vision import Preprocess, load_pretrained


def spherical_distance(u: Tensor, v: Tensor) -> Tensor:
    """Half the square of the angle between unit vectors (..., D), (...); at most pi^2 / 2."""
    return 2 * torch.asin(((u - v).norm(dim=-1) / 2).clamp(max=1.0)).square()


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP or SigLIP: texts and images as unit vectors (N, D) of one space."""

    name: str
    network: Any
    tokenizer: Any
    preprocess: Preprocess

    @cached_property
    def width(self) -> int:
        """D, how many numbers an embedding has."""
        return self.embed_texts(["a"]).shape[1]

    def embed_images(self, images: Tensor) -> Tensor:
        """The embeddings of `images` (B, 3, H, W) in [0, 1], in their dtype, differentiable."""
        features = _tensor(self.network.get_image_features(pixel_values=self.preprocess(images)))
        return normalize(features.to(images.dtype), dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """The embeddings of `texts`. Raises UserError if one is empty, or longer than the network reads."""
        longest = min(self.tokenizer.model_max_length, self.network.config.text_config.max_position_embeddings)
        for text in texts:
            if not text.strip():
                raise UserError("the text for CLIP is empty: say what the image should be like")
            count = len(self.tokenizer(text).input_ids)
            if count > longest:
                raise UserError(f"the text has {count} tokens and {self.name} reads {longest}: shorten {text[:60]!r}")
        tokens = self.tokenizer(list(texts), padding="max_length", max_length=longest, return_tensors="pt").input_ids
        features = _tensor(self.network.get_text_features(input_ids=tokens.to(self.network.device)))
        return normalize(features, dim=1)


@dataclass(frozen=True, eq=False)
class ClipText(Term):
    """How far the image is from what `text` says, to `clip`."""

    clip: Clip
    text: str

    def __post_init__(self) -> None:
        _ = self.target

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.clip.name} text={self.text}"

    @cached_property
    def target(self) -> Tensor:
        """The text's embedding, (1, D)."""
        return self.clip.embed_texts([self.text])

    def __call__(self, images: Tensor) -> Tensor:
        return spherical_distance(self.clip.embed_images(images), self.target.to(images))


@dataclass(frozen=True, eq=False)
class ClipImage(Term):
    """How far the image is from the mean embedding of `pictures`, each (3, H, W) in [0, 1], to `clip`."""

    clip: Clip
    pictures: Sequence[Tensor]

    def __post_init__(self) -> None:
        if not self.pictures:
            raise UserError("there are no pictures for the image to be like: name at least one")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.clip.name} image"

    @cached_property
    def target(self) -> Tensor:
        """The pictures' mean embedding, (1, D)."""
        with torch.no_grad():
            embeddings = [
                self.clip.embed_images(picture[None].to(self.clip.network.device)) for picture in self.pictures
            ]
        return normalize(torch.cat(embeddings).mean(dim=0, keepdim=True), dim=1)

    def __call__(self, images: Tensor) -> Tensor:
        return spherical_distance(self.clip.embed_images(images), self.target.to(images))


def load_clip(name: str | Path | None = None, device: str | torch.device = "cpu") -> Clip:
    """The bundled CLIP (None), or any `transformers` CLIP or SigLIP by folder or hub name, frozen.

    Raises UserError if there is none of that name.
    """
    from transformers import AutoTokenizer

    source = name or bundled.CLIP
    network, preprocess = load_pretrained("AutoModel", source, "CLIP")
    if not hasattr(network, "get_image_features") or not hasattr(network, "get_text_features"):
        raise UserError(f"{source} is a {type(network).__name__}, which is no CLIP: name one of texts and images")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise UserError(f"{source} has no tokenizer beside its weights: name a complete CLIP") from error
    return Clip("CLIP" if name is None else Path(name).name, network.to(device), tokenizer, preprocess)


def _tensor(features: Any) -> Tensor:
    """transformers 5 may return an object around the features."""
    return features if isinstance(features, Tensor) else features.pooler_output
