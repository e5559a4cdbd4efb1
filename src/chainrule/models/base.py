"""A checkpoint as everything else sees it: a network, a codec for its latents, a text encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from chainrule.diffusion.denoiser import Conditioned, Conditioning, Denoiser, Network
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.diffusion.schedule import Schedule
from chainrule.errors import UserError
from chainrule.images import fit
from chainrule.noise import Noise


class Codec(ABC):
    """Between images (B, 3, H, W) in [0, 1] and latents (B, C, h, w)."""

    latent_shape: tuple[int, int, int]
    """The latents' (C, h, w) for images of the model's own size."""
    factor: int
    """The width and height of a latent, in pixels."""
    multiple: int
    """The sides of an image, in pixels, are multiples of this; the network halves latents too."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """The images of `latents`, clamped to [0, 1]; the gradient passes as if unclamped."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """The latents of `images` (no noise is added)."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it runs: those that a memory plan may move."""
        return ()

    def fit(self, picture: Tensor) -> Tensor:
        """A picture at a size that the model can make.

        Args:
            picture: (3, h, w) in [0, 1], of any size.

        Returns:
            (3, H, W) in [0, 1], in nearly the same proportions: about the area of the model's own
            images, sides that are multiples of `multiple`.
        """
        _, height, width = self.latent_shape
        return fit(picture, height * width * self.factor**2, self.multiple)


class Text(ABC):
    """From prompts to the network's conditioning."""

    @property
    def example(self) -> str | None:
        """A prompt; None if the model takes none."""
        return "a red shape on a white background"

    @abstractmethod
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of some prompts.

        Args:
            prompts: B prompts; an empty one stands for no prompt.

        Returns:
            Tensors with a leading dimension of B.

        Raises:
            UserError: A prompt is too long, or means nothing to the model.
        """

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The text encoders that it runs: those that a memory plan may move."""
        return ()

    def tokens(self, prompt: str) -> list[str]:
        """The tokens of `prompt`, one string for each place in the conditioning's first tensor.

        Raises:
            UserError: The conditioning is not a sequence of tokens.
        """
        raise UserError(
            "this model's prompts are not sequences of tokens, so their words cannot be told apart",
            "choose a checkpoint with a CLIP or a T5",
        )

    def with_token(self, word: str, vectors: Tensor) -> Text:
        """This text encoder with a new word. The original stays as it is.

        Args:
            word: In angle brackets, for example `<effect>`.
            vectors: The token embeddings (n, D) that it stands for. They get their gradients
                through the conditioning.

        Raises:
            UserError: The word is not a new one, or the family cannot learn any.
        """
        raise _cannot_learn()

    @property
    def pad_embedding(self) -> Tensor:
        """The token embedding (D,) that prompts are padded with: it adds nothing to a prompt.

        Raises:
            UserError: The family cannot learn a new word, which is what this is for.
        """
        raise _cannot_learn()


def _cannot_learn() -> UserError:
    return UserError(
        "this model's family cannot be taught a word",
        "choose Stable Diffusion 1.x or 2.x or the bundled model, which have one CLIP for text",
        "model",
    )


class Guidance(ABC):
    """How strongly a prompt is followed: what a family makes of a guidance scale."""

    negative: bool
    """Whether it takes a negative prompt."""

    @abstractmethod
    def __call__(
        self,
        network: Network,
        prompt: Conditioning,
        negative: Callable[[], Conditioning],
        scale: float,
    ) -> Denoiser:
        """A guided denoiser.

        Args:
            network: The network to guide.
            prompt: The conditioning of the prompt.
            negative: Gives the conditioning of the negative prompt, if it is needed.
            scale: The guidance scale; 1 and less mean no guidance.

        Raises:
            UserError: The family cannot be guided by that scale.
        """


class ClassifierFreeGuidance(Guidance):
    """Two network calls, with and without the prompt; up to a scale of 1 one, as in diffusers."""

    negative = True

    def __call__(
        self,
        network: Network,
        prompt: Conditioning,
        negative: Callable[[], Conditioning],
        scale: float,
    ) -> Denoiser:
        conditioned = Conditioned(network, prompt)
        return conditioned if scale <= 1.0 else ClassifierFree(conditioned, negative(), scale)


@dataclass(frozen=True)
class DistilledGuidance(Guidance):
    """The scale is an input of a network that was distilled from a guided one.

    Args:
        embed: From a scale to the tensor (1, ...) that joins the conditioning.
    """

    embed: Callable[[float], Tensor]
    negative = False

    def __call__(
        self,
        network: Network,
        prompt: Conditioning,
        negative: Callable[[], Conditioning],
        scale: float,
    ) -> Denoiser:
        embedding = self.embed(scale).to(network.weights[0].device)
        return Conditioned(network, (*prompt, embedding))


@dataclass(frozen=True)
class NoGuidance(Guidance):
    """A network that cannot be guided.

    Args:
        reason: Why, as a clause: "it was distilled to need none".
    """

    reason: str
    negative = False

    def __call__(
        self,
        network: Network,
        prompt: Conditioning,
        negative: Callable[[], Conditioning],
        scale: float,
    ) -> Denoiser:
        if scale > 1.0:
            raise UserError(
                f"this model has no guidance scale ({self.reason})",
                f"leave it at 1, not {scale:g}",
                "guidance_scale",
            )
        return Conditioned(network, prompt)


CLASSIFIER_FREE = ClassifierFreeGuidance()


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded checkpoint. Its weights are frozen: unfreeze those that are to be trained.

    Args:
        name: What it was loaded from.
        network: Predicts from noisy latents, a time and a conditioning.
        codec: Between images and latents.
        text: From prompts to conditionings.
        guidance_scale: The default of `guidance`.
        device: Where latents live.
        guidance: How the family follows a prompt.
        photo_scale: The guidance scale for editing a photo, where `guidance` has a negative prompt.
    """

    name: str
    network: Network
    codec: Codec
    text: Text
    guidance_scale: float
    device: torch.device
    guidance: Guidance = CLASSIFIER_FREE
    photo_scale: float = 3.0

    @property
    def schedule(self) -> Schedule:
        """The noise schedule, alpha(t) and sigma(t), and the times to visit."""
        return self.network.schedule

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All networks, each once: the diffusion network, the codec's, the text encoders."""
        parts = (*self.network.networks, *self.codec.networks, *self.text.networks)
        return tuple({id(part): part for part in parts}.values())

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
        """The network with its prompt filled in.

        Args:
            prompt: One for all images, or one for each; or a conditioning, as `text` makes it. A
                conditioning tensor that requires a gradient gets one.
            negative_prompt: What an image should not be, in the same forms.
            guidance_scale: How strongly the prompt is followed; None is the model's own. 1 or less
                is no guidance, without the cost of classifier-free guidance.

        Raises:
            UserError: The prompt means nothing to the model, or it cannot be guided so.
        """
        plain = isinstance(negative_prompt, str) and negative_prompt == ""
        if not self.guidance.negative and not plain:
            raise UserError(f"{self.name} takes no negative prompt", "omit it", "negative_prompt")
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        return self.guidance(
            self.network,
            self._conditioning(prompt),
            lambda: self._conditioning(negative_prompt),
            scale,
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of `latents` (B, C, h, w)."""
        return self.codec.decode(latents)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of `images` (B, 3, H, W) in [0, 1]."""
        return self.codec.encode(images)

    def _conditioning(self, prompt: str | Sequence[str] | Conditioning) -> Conditioning:
        """`prompt` as a conditioning, if it is not one already."""
        values = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        prompts = [value for value in values if isinstance(value, str)]
        if len(prompts) == len(values):
            return tuple(value.to(self.device) for value in self.text(prompts))
        return cast(Conditioning, values)


def clamp_with_gradient(images: Tensor) -> Tensor:
    """`images` clamped to [0, 1], with the gradient of no clamp.

    So a picture that is too bright can still be darkened.
    """
    return images + (images.clamp(0.0, 1.0) - images).detach()
