"""CLIP: texts and images in one space, and the distance there (DOODL section 5).

    loss = 2 arcsin(|u - v| / 2)^2        u, v: unit embeddings, of the image and of its aim

half the square of the angle between them. (Eq. 10 of the paper prints it with a slip; this is the
form of the source that it cites, Crowson et al., "VQGAN-CLIP", 2022.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from chainrule.brief import Brief
from chainrule.bundled import SCENES, WORLDS, find_network, is_world
from chainrule.errors import UserError
from chainrule.specs import NetworkName, expand
from chainrule.vision import Portable, Preprocess, asking, load_pretrained, quiet_transformers

Clips = Annotated[dict[NetworkName, float], Field(min_length=1)]
"""CLIPs by folder, hub name or world ("" is that of the model's world), each with its weight."""


def spherical_distance(u: Tensor, v: Tensor) -> Tensor:
    """Half the square of the angle between unit vectors.

    Args:
        u: Unit vectors (..., D).
        v: Unit vectors of a shape that broadcasts with it.

    Returns:
        The distances (...), from 0 to pi^2 / 2.
    """
    return 2 * torch.asin(((u - v).norm(dim=-1) / 2).clamp(max=1.0)).square()


@dataclass(frozen=True, eq=False)
class Clip(Brief, Portable):
    """A frozen CLIP or SigLIP: texts and images as unit vectors (N, D) of one space.

    Args:
        name: What it is called in the names of losses.
        network: The `transformers` model.
        tokenizer: The `transformers` tokenizer that it was trained with.
        preprocess: How images are shown to it.
        known: All words that it has seen, if they are few.
    """

    name: str
    network: Any
    tokenizer: Any
    preprocess: Preprocess
    known: tuple[str, ...] = ()

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks."""
        return (self.network,)

    @cached_property
    def width(self) -> int:
        """D, how many numbers an embedding has."""
        return self.embed_texts(["a"]).shape[1]

    def embed_images(self, images: Tensor) -> Tensor:
        """The embeddings (B, D) of `images` (B, 3, H, W) in [0, 1], in their dtype."""
        with asking(self.name):
            found = self.network.get_image_features(pixel_values=self.preprocess(images))
        features = _tensor(found)
        return normalize(features.to(images.dtype), dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """The embeddings (N, D) of `texts`.

        Raises:
            UserError: A text is empty, or longer than the network reads.
        """
        longest = min(
            self.tokenizer.model_max_length,
            self.network.config.text_config.max_position_embeddings,
        )
        for text in texts:
            self._check(text, longest)
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=longest, return_tensors="pt"
        ).input_ids
        features = self.network.get_text_features(input_ids=tokens.to(self.network.device))
        return normalize(_tensor(features), dim=1)

    def _check(self, text: str, longest: int) -> None:
        if not text.strip():
            raise UserError("the text for CLIP is empty", "say what the image should be like")
        count = len(self.tokenizer(text).input_ids)
        if count > longest:
            raise UserError(
                f"the text has {count} tokens and {self.name} reads {longest}",
                f"shorten {text[:60]!r}",
            )


def load_clip(name: str | Path | None = None, device: str | torch.device = "cpu") -> Clip:
    """Any `transformers` CLIP or SigLIP, frozen.

    Args:
        name: A folder, a name on the hub, or that of a world ("sprites"); None: the shapes'.
        device: Where it works.

    Raises:
        UserError: There is none of that name.
    """
    from transformers import AutoTokenizer

    found = find_network(name, "clip")
    source = str(expand(found))
    network, preprocess = load_pretrained("AutoModel", found, "CLIP", unasked=("pooler",))
    if not hasattr(network, "get_image_features") or not hasattr(network, "get_text_features"):
        raise UserError(
            f"{source} is a {type(network).__name__}, which is not a CLIP",
            "name one of texts and images",
        )
    try:
        with quiet_transformers(bars=True):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise UserError(
            f"{source} has no tokenizer beside its weights", "name a complete CLIP"
        ) from error
    known, read = len(tokenizer), network.config.text_config.vocab_size
    if not read / 2 <= known <= read:  # transformers makes an empty one where there is none
        raise UserError(
            f"the tokenizer beside the weights of {source} knows {known} tokens and the network "
            f"{read}",
            "name a complete CLIP",
        )
    label, words = Path(found).name, tuple[str, ...]()
    if is_world(name):
        label, words = "CLIP", WORLDS[str(name or SCENES.name)].words
    return Clip(label, network.to(device), tokenizer, preprocess, words)


def _tensor(features: Any) -> Tensor:
    """transformers 5 may return an object around the features."""
    return features if isinstance(features, Tensor) else features.pooler_output
