"""A checkpoint as everything else sees it: a network, a codec between latents and images, and a text encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.diffusion.denoiser import Conditioned, Conditioning, Denoiser, Network
from chainrule.errors import UserError
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.noise import Noise
from chainrule.diffusion.schedule import Schedule


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

    example: str | None = "a red shape on a white background"
    """A prompt; None if there is nothing to be told."""

    @abstractmethod
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of the prompts, leading dimension len(prompts); an empty one stands for no prompt.

        Raises UserError if a prompt is too long, or nothing that the model can be told.
        """

    def tokens(self, prompt: str) -> list[str]:
        """What the network reads of `prompt`, one string for each of the K places of the conditioning's first tensor.

        Raises UserError if the conditioning is no sequence of tokens.
        """
        raise UserError("this model's prompts are no sequences of tokens, so their words cannot be told apart")

    def taught(self, word: str, vectors: Tensor) -> Text:
        """This text encoder with a new `word`, which reads as the token embeddings `vectors` (n, D).

        They get their gradients through the conditioning. Raises UserError if the word is known, or the family cannot.
        """
        raise UserError(NO_WORDS)

    @property
    def blank(self) -> Tensor:
        """The token embedding (D,) that prompts are filled up with: a word made of it says nothing."""
        raise UserError(NO_WORDS)


NO_WORDS = (
    "this model's family cannot be taught a word: Stable Diffusion 1.x and 2.x and the bundled model can, which have "
    "one CLIP for their text"
)


class Guidance(ABC):
    """How strongly a prompt is followed: what a family makes of a guidance scale, 1 and less being none."""

    negative: bool
    """Whether it can be told what an image should not be."""

    @abstractmethod
    def __call__(
        self, network: Network, prompt: Conditioning, negative: Callable[[], Conditioning], scale: float
    ) -> Denoiser:
        """`network` told `prompt`, guided; `negative` gives the negative prompt's conditioning if it is wanted.

        Raises UserError if the family cannot be guided by that scale.
        """


class ClassifierFreeGuidance(Guidance):
    """Classifier-free guidance, which asks the network twice; up to a scale of 1, once, as in diffusers."""

    negative = True

    def __call__(
        self, network: Network, prompt: Conditioning, negative: Callable[[], Conditioning], scale: float
    ) -> Denoiser:
        conditioned = Conditioned(network, prompt)
        return conditioned if scale <= 1.0 else ClassifierFree(conditioned, negative(), scale)


@dataclass(frozen=True)
class DistilledGuidance(Guidance):
    """The scale is an input of a network that was distilled to be guided: `embed` makes a tensor (1, ...) of it."""

    embed: Callable[[float], Tensor]
    negative = False

    def __call__(
        self, network: Network, prompt: Conditioning, negative: Callable[[], Conditioning], scale: float
    ) -> Denoiser:
        return Conditioned(network, (*prompt, self.embed(scale).to(network.weights[0].device)))


@dataclass(frozen=True)
class NoGuidance(Guidance):
    """There is none, for a `reason`."""

    reason: str
    negative = False

    def __call__(
        self, network: Network, prompt: Conditioning, negative: Callable[[], Conditioning], scale: float
    ) -> Denoiser:
        if scale > 1.0:
            raise UserError(f"this model has no guidance scale ({self.reason}): leave it at 1, not {scale:g}")
        return Conditioned(network, prompt)


CLASSIFIER_FREE = ClassifierFreeGuidance()


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded checkpoint. Its weights are frozen: unfreeze those that are to be trained.

    `guidance_scale` is the default of its `guidance`; `device` is where latents live.
    """

    name: str
    network: Network
    codec: Codec
    text: Text
    guidance_scale: float
    device: torch.device
    guidance: Guidance = CLASSIFIER_FREE

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

        `guidance_scale` says how strongly it is followed; 1 or less does without (and without the cost of
        classifier-free guidance), None is the model's own. A conditioning tensor that requires a gradient gets one.
        Raises UserError if the model cannot be told or guided so.
        """
        if not self.guidance.negative and not (isinstance(negative_prompt, str) and negative_prompt == ""):
            raise UserError(f"{self.name} cannot be told what an image should not be: leave the negative prompt out")
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        told = self._conditioning(prompt)
        return self.guidance(self.network, told, lambda: self._conditioning(negative_prompt), scale)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of `latents` (B, C, h, w)."""
        return self.codec.decode(latents)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of `images` (B, 3, H, W) in [0, 1]."""
        return self.codec.encode(images)

    def _conditioning(self, prompt: str | Sequence[str] | Conditioning) -> Conditioning:
        if isinstance(prompt, str):
            prompt = [prompt]
        if all(isinstance(value, str) for value in prompt):
            return tuple(value.to(self.device) for value in self.text(prompt))  # type: ignore[arg-type]
        return tuple(prompt)  # type: ignore[arg-type]


def clamp_with_gradient(images: Tensor) -> Tensor:
    """`images` clamped to [0, 1], with the gradient of no clamp: a picture that is too bright can still be darkened."""
    return images + (images.clamp(0.0, 1.0) - images).detach()
