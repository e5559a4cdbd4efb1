"""What families share: U-Nets that read a text, and text encoders that learn words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.errors import UserError
from chainrule.models.autoencoder import Autoencoder, read_autoencoder
from chainrule.models.base import (
    CLASSIFIER_FREE,
    DistilledGuidance,
    Guidance,
    PictureConditioning,
    Text,
)
from chainrule.models.inpainting import Picture, fills_in
from chainrule.models.tokens import (
    add_token,
    embed_padding,
    embed_word,
    taught_words,
    text_encoders,
    word_widths,
)


@dataclass(frozen=True, eq=False)
class PipelineText(Text):
    """The text encoders of a pipeline, CLIPs and T5s, which learn new words.

    Args:
        pipeline: The diffusers pipeline.
    """

    pipeline: Any

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return text_encoders(self.pipeline)

    @property
    def words(self) -> tuple[str, ...]:
        return taught_words(self.pipeline)

    def with_token(self, word: str, vectors: Tensor) -> Text:
        if not self.widths:
            return super().with_token(word, vectors)
        return replace(self, pipeline=add_token(self.pipeline, word, vectors))

    @property
    def widths(self) -> tuple[int, ...]:
        return word_widths(self.pipeline)

    @property
    def pad_embedding(self) -> Tensor:
        return embed_padding(self.pipeline) if self.widths else super().pad_embedding

    def word_embedding(self, word: str) -> Tensor:
        return embed_word(self.pipeline, word) if self.widths else super().word_embedding(word)


def check_unet(unet: Any, name: str, addition: str | None = None) -> None:
    """Raise UserError if a U-Net is told more than a time and a text.

    Args:
        unet: The U-Net.
        name: The checkpoint, for messages.
        addition: What its family tells it too, as its configuration calls that.
    """
    config = unet.config
    kind = config.encoder_hid_dim_type
    if kind is not None and "image" in kind:
        raise UserError(
            f"the network takes a picture too ({kind})",
            "unload its IP-adapter (pipeline.unload_ip_adapter())",
            "model",
        )
    told = {
        "encoder_hid_dim_type": kind,
        "encoder_hid_dim": config.encoder_hid_dim,
        "class_embed_type": config.class_embed_type,
        "num_class_embeds": config.num_class_embeds,
    }
    if config.addition_embed_type != addition:
        told["addition_embed_type"] = config.addition_embed_type
    for setting, value in told.items():
        if value is not None or setting == "addition_embed_type":
            raise UserError(
                f"the network of {name} is told other things than a text ({setting}={value!r})",
                "choose a checkpoint that draws from text alone",
                "model",
            )


def read_codec(
    pipeline: Any, size: tuple[int, int] | None
) -> tuple[Autoencoder, PictureConditioning | None]:
    """The autoencoder of a U-Net's pipeline, and what an inpainting network is told by it.

    Args:
        pipeline: The diffusers pipeline.
        size: The images' (height, width) in pixels, or None.
    """
    config, filling = pipeline.unet.config, fills_in(pipeline)
    channels = pipeline.vae.config.latent_channels if filling else config.in_channels
    even = 2 ** (len(config.block_out_channels) - 1)
    codec = read_autoencoder(pipeline, channels, 1, config.sample_size, size, even)
    return codec, Picture(codec, pipeline.unet.device) if filling else None


def read_guidance(pipeline: Any) -> Guidance:
    """Classifier-free guidance, unless the scale is an input (consistency models)."""
    width = pipeline.unet.config.time_cond_proj_dim
    if width is None:
        return CLASSIFIER_FREE
    return DistilledGuidance(_ScaleEmbedding(type(pipeline).get_guidance_scale_embedding, width))


@dataclass(frozen=True)
class _ScaleEmbedding:
    """From a guidance scale to the sines that a consistency model takes."""

    function: Any
    width: int

    def __call__(self, scale: float) -> Tensor:
        # it is the pipeline's method, and asks nothing of the pipeline
        embedding: Tensor = self.function(None, torch.tensor([scale - 1.0]), self.width)
        return embedding
