"""A checkpoint as everything else sees it: a network, a codec between latents and images, and a text encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.denoiser import Conditioned, Conditioning, Denoiser, Network
from chainrule.guide.classifier_free import ClassifierFree
from chainrule.noise import Noise
from chainrule.schedule import Schedule


class Codec(ABC):
    """Between images (B, 3, H, W) in [0, 1] and latents (B, C, h, w)."""

    latent_shape: tuple[int, int, int]
    """The latents (C, h, w) of the images that the checkpoint was trained on."""
    factor: int
    """How many pixels a latent is wide and high."""
    multiple: int
    """The sides of an image, in pixels, must be multiples of this (the network halves the latents several times)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """The images of `latents`, clamped to [0, 1]; the gradient passes as if they were not clamped."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """The latents of `images` (no noise is added)."""


class Text(ABC):
    """From prompts to what the network is told."""

    @abstractmethod
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of the prompts, leading dimension len(prompts). Raises UserError if one is too long."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded checkpoint. Its weights are frozen: unfreeze those that are to be trained.

    `guidance_scale` is the default of classifier-free guidance; `device` is where latents live.
    """

    name: str
    network: Network
    codec: Codec
    text: Text
    guidance_scale: float
    device: torch.device

    @property
    def schedule(self) -> Schedule:
        """alpha(t), sigma(t) and the times to visit."""
        return self.network.schedule

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """The starting noise x_T (B, C, h, w) of each seed, float32."""
        return Noise(tuple(seeds)).normal(0, self.codec.latent_shape).to(self.device)

    def denoiser(
        self,
        prompt: str | Sequence[str] | Conditioning,
        *,
        negative_prompt: str | Sequence[str] | Conditioning = "",
        guidance_scale: float | None = None,
    ) -> Denoiser:
        """The network told `prompt`: one for all images, or one for each; or the conditioning itself (`text`).

        `guidance_scale` is classifier-free guidance's; 1 does without (and without its cost), None is the model's own.
        A conditioning tensor that requires a gradient gets one.
        """
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        conditioned = Conditioned(self.network, self._conditioning(prompt))
        return conditioned if scale == 1.0 else ClassifierFree(conditioned, self._conditioning(negative_prompt), scale)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of `latents` (B, C, h, w)."""
        return self.codec.decode(latents)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of `images` (B, 3, H, W) in [0, 1]."""
        return self.codec.encode(images)

    def _conditioning(self, prompt: str | Sequence[str] | Conditioning) -> Conditioning:
        if isinstance(prompt, str):
            return self.text([prompt])
        if all(isinstance(value, str) for value in prompt):
            return self.text(prompt)  # type: ignore[arg-type]
        return tuple(prompt)  # type: ignore[arg-type]


def clamp_through(images: Tensor) -> Tensor:
    """`images` clamped to [0, 1], with the gradient of no clamp: a picture that is too bright can still be darkened."""
    return images + (images.clamp(0.0, 1.0) - images).detach()
