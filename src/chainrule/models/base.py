"""A checkpoint as everything else sees it: a network, a codec for its latents, a text encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from math import isfinite
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor, nn

from chainrule.brief import Brief
from chainrule.bundled import SCENES
from chainrule.diffusion.denoiser import Conditioned, Conditioning, Denoiser, Network
from chainrule.diffusion.gradient.base import is_transformed
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.diffusion.schedule import Schedule
from chainrule.errors import UserError
from chainrule.images import fit
from chainrule.models.frozen import copy_elsewhere, relocate
from chainrule.noise import Noise, as_seeds
from chainrule.vision import Portable


class Codec(Brief, ABC):
    """Between images (B, 3, H, W) in [0, 1] and latents (B, C, h, w)."""

    latent_shape: tuple[int, int, int]
    """The latents' (C, h, w) for images of the model's own size."""
    factor: int
    """The width and height of a latent, in pixels."""
    multiple: int
    """The sides of an image, in pixels, are multiples of this."""
    photo_multiple: int | None = None
    """What the sides of a photo are made multiples of, where its network likes these more."""
    float32_in_half: bool = False
    """Whether it stays in float32 when the model is cast to float16, where it would overflow."""

    @abstractmethod
    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        """The images (B, 3, H, W) of some latents.

        Args:
            latents: (B, C, h, w).
            clamp: Whether they are clamped to [0, 1], where the gradient passes as if they were
                not; otherwise they are what the decoder gives, a little below 0 or above 1 here
                and there.
        """

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
            images, sides that are multiples of `multiple` and of `photo_multiple`.
        """
        _, height, width = self.latent_shape
        multiple = self.photo_multiple or self.multiple
        return fit(picture, height * width * self.factor**2, multiple)


class Text(Brief, Portable, ABC):
    """From prompts to the network's conditioning; a prompt may stand alone."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            cls.__call__ = _listed(cls.__call__)  # type: ignore[method-assign]

    @property
    def example(self) -> str | None:
        """A prompt; None if the model takes none."""
        return SCENES.example

    @abstractmethod
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of some prompts.

        Args:
            prompts: B prompts, or a text: one; an empty one stands for no prompt.

        Returns:
            Tensors with a leading dimension of B.

        Raises:
            UserError: A prompt is too long, or means nothing to the model.
        """

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The text encoders that it runs: those that a memory plan may move."""
        return ()

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it was taught (textual inversions), as one types them."""
        return ()

    def match(self, *conditionings: Conditioning) -> tuple[Conditioning, ...]:
        """Conditionings of one length: chunks of nothing are added to those of shorter prompts.

        Args:
            conditionings: As this text encoder makes them.
        """
        return conditionings

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
            vectors: The token embeddings (n, D) that it stands for, D the sum of `widths`: those
                of the text encoders side by side, in turn. They get their gradients through the
                conditioning; who changes them in place changes the word.

        Raises:
            UserError: The word is not a new one, or the family cannot learn any.
        """
        raise cannot_learn()

    def knowing(self, word: str) -> Text:
        """This text encoder without a warning that it does not know a word.

        Args:
            word: A rare one, whose meaning the network is about to learn; or several.
        """
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each text encoder's token embeddings; none if no word can be learnt."""
        return ()

    @property
    def pad_embedding(self) -> Tensor:
        """The token embedding (D,) that prompts are padded with: it adds next to nothing to one.

        Nothing at all where a CLIP is padded with its end mark, as in Stable Diffusion 1.x.

        Raises:
            UserError: The family cannot learn a new word, which is what this is for.
        """
        raise cannot_learn()

    def word_embedding(self, word: str) -> Tensor:
        """The token embedding (D,) of a known word, for a new one that is to start as it.

        Args:
            word: As one types it; of several tokens the mean is taken.

        Raises:
            UserError: The model does not know it, or its family cannot learn a new word.
        """
        raise cannot_learn()


def _listed(call: Callable[[Any, Sequence[str]], Conditioning]) -> Any:
    """A text encoder's `__call__` that takes one prompt too: a text is not a list of letters."""

    @wraps(call)
    def listed(self: Text, prompts: str | Sequence[str]) -> Conditioning:
        given: Any = [prompts] if isinstance(prompts, str) else prompts
        if not isinstance(given, (list, tuple)) or not all(isinstance(p, str) for p in given):
            raise UserError(
                f"prompts are not {prompts!r:.60}", "give a text, or a list of texts", "prompt"
            )
        return call(self, given)

    return listed


def cannot_learn() -> UserError:
    """What to raise where no word can be learnt."""
    return UserError(
        "this model cannot be taught a word",
        "choose one that reads its prompts with a CLIP or a T5, as Stable Diffusion",
        "model",
    )


class Guidance(Brief, ABC):
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

PictureConditioning = Callable[[Tensor | None, Tensor | None], Conditioning]
"""From photos (B, 3, H, W) in [0, 1] and masks (B, 1, H, W), 1 where they may change, to what joins
the conditioning of an inpainting network."""


@dataclass(frozen=True, eq=False)
class Model(Brief):
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
        notes: What was loaded beside the checkpoint, a line each: words and LoRAs.
        picture: What its network is told of a picture to be filled in; None: nothing.
        world: The bundled world whose networks know its images; None: none.
    """

    name: str
    network: Network
    codec: Codec
    text: Text
    guidance_scale: float
    device: torch.device
    guidance: Guidance = CLASSIFIER_FREE
    photo_scale: float = 3.0
    notes: tuple[str, ...] = ()
    picture: PictureConditioning | None = None
    world: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it was taught (textual inversions), as one types them."""
        return self.text.words

    @property
    def schedule(self) -> Schedule:
        """The noise schedule, alpha(t) and sigma(t), and the times to visit."""
        return self.network.schedule

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All networks, each once: the diffusion network, the codec's, the text encoders."""
        parts = (*self.network.networks, *self.codec.networks, *self.text.networks)
        return tuple({id(part): part for part in parts}.values())

    def noise(self, seeds: int | Iterable[int]) -> Tensor:
        """The starting noise x_T (B, C, h, w) of each seed, float32.

        Args:
            seeds: A whole number from 0 to 2147483647, or several, as a list or a range.

        Raises:
            UserError: One of them is not a seed, or there is none.
        """
        return Noise(as_seeds(seeds)).normal(0, self.codec.latent_shape).to(self.device)

    def denoiser(
        self,
        prompt: str | Sequence[str] | Conditioning,
        *,
        negative_prompt: str | Sequence[str] | Conditioning = "",
        guidance_scale: float | None = None,
        photo: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Denoiser:
        """The network with its prompt filled in.

        Args:
            prompt: One for all images, or one for each; or a conditioning, as `text` makes it. A
                conditioning tensor that requires a gradient gets one.
            negative_prompt: What an image should not be, in the same forms.
            guidance_scale: How strongly the prompt is followed; None is the model's own. 1 or less
                is no guidance, without the cost of classifier-free guidance.
            photo: For an inpainting network, the photos (B or 1, 3, H, W) in [0, 1] that it fills
                in; None: there is none, and it draws all of an image.
            mask: Where it may change them, (B or 1, 1, H, W) in [0, 1]; None: everywhere.

        Raises:
            UserError: The prompt means nothing to the model, or it cannot be guided so.
        """
        plain = isinstance(negative_prompt, str) and negative_prompt == ""
        if not self.guidance.negative and not plain:
            raise UserError(f"{self.name} takes no negative prompt", "omit it", "negative_prompt")
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        if isinstance(scale, bool) or not isinstance(scale, Real) or not isfinite(scale):
            cause = f"a guidance scale is not {scale!r:.60}"
            raise UserError(cause, "give a number, as 7.5; 1 is no guidance", "guidance_scale")
        scale = float(scale)
        told, seen = self._conditioning(prompt), self._see(photo, mask)
        if plain or scale <= 1.0:  # nothing is never the longer of the two
            return self.guidance(
                self.network,
                (*told, *seen),
                lambda: (*self._match(told, negative_prompt)[1], *seen),
                scale,
            )
        told, negative = self._match(told, negative_prompt)
        return self.guidance(self.network, (*told, *seen), lambda: (*negative, *seen), scale)

    def _see(self, photo: Tensor | None, mask: Tensor | None) -> Conditioning:
        """What the network is told of a picture."""
        if self.picture is not None:
            return self.picture(photo, mask)
        if photo is not None or mask is not None:
            raise UserError(
                f"the network of {self.name} is told no picture",
                "omit it here, and give it to the method",
                "photo",
            )
        return ()

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        """The images (B, 3, H, W) of some latents.

        Clamped images are in [0, 1], and their gradient is that of images that were not clamped: a
        picture that is too bright can still be darkened. So a finite difference of clamped images
        is not their gradient where they are clamped; that of the plain decoder's (`clamp=False`)
        is.

        Args:
            latents: (B, C, h, w).
            clamp: Whether the images are clamped to [0, 1].

        Raises:
            UserError: They are not latents of this model.
        """
        _check_batch(latents, self.codec.latent_shape[0], "latents")
        return self.codec.decode(latents) if clamp else self.codec.decode(latents, clamp=False)

    def encode(self, images: Tensor) -> Tensor:
        """The latents (B, C, h, w) of some images.

        Args:
            images: (B, 3, H, W) in [0, 1], of sides that are multiples of `codec.multiple`.

        Raises:
            UserError: They are not such images.
        """
        _check_batch(images, 3, "images")
        height, width = images.shape[-2:]
        multiple = self.codec.multiple
        if height % multiple or width % multiple:
            raise UserError(
                f"images of {height}x{width} pixels are not possible",
                f"this model's sides are multiples of {multiple}: fit them, with model.codec.fit",
                "size",
            )
        _check_range(images)
        return self.codec.encode(images).contiguous()  # a picture's layout is not passed on

    def to(self, *where: str | torch.device | torch.dtype) -> Model:
        """This model on another device, or in another dtype. This one stays as it is.

        Weights that are moved or cast are copied; those that are there already are shared. An
        autoencoder that overflows in half precision (XL's), and what a text encoder keeps in
        float32 (T5's), stay in float32 if float16 is asked for, as when they are loaded so.
        Latents are float32, whatever the dtype.

        Args:
            where: A device, a dtype, or both.

        Raises:
            UserError: It is neither, or that device is not there.
        """
        device, dtype = _read_place(where, self.device)
        careful = self.codec.networks if self.codec.float32_in_half else ()
        copied = copy_elsewhere(self, self.networks, device, dtype, careful)
        parts = {
            name: relocate(getattr(copied, name), device) for name in ("network", "codec", "text")
        }
        return replace(copied, device=device, **parts)

    def __repr__(self) -> str:
        family = type(self.network).__module__.rpartition(".")[2]
        _, *sides = self.codec.latent_shape
        height, width = (side * self.codec.factor for side in sides)
        weights = (weight.dtype for weight in self.network.weights)
        dtype = str(next(weights, "no weights")).removeprefix("torch.")
        return f"Model({self.name!r}, {family}, {height}x{width} pixels, {dtype}, {self.device})"

    def _match(
        self, told: Conditioning, negative_prompt: str | Sequence[str] | Conditioning
    ) -> tuple[Conditioning, ...]:
        """The conditionings of a prompt and of a negative one, of one length."""
        return self.text.match(told, self._conditioning(negative_prompt))

    def _conditioning(self, prompt: str | Sequence[str] | Conditioning) -> Conditioning:
        """`prompt` as a conditioning, if it is not one already."""
        given: object = prompt
        values = tuple(prompt) if isinstance(prompt, (list, tuple)) else (prompt,)
        prompts = [value for value in values if isinstance(value, str)]
        if values and len(prompts) == len(values):
            return tuple(value.to(self.device) for value in self.text(prompts))
        told = isinstance(prompt, tuple) or (isinstance(prompt, list) and bool(values))
        if told and all(isinstance(value, Tensor) for value in values):
            return cast(Conditioning, values)
        cure = "give a text, a list of texts, or a conditioning (model.text(prompts))"
        raise UserError(f"a prompt is not {given!r:.60}", cure, "prompt")


def _check_batch(value: Tensor, channels: int, what: str) -> None:
    """Raise UserError unless `value` is a batch of floats (B, channels, h, w)."""
    expected = f"(B, {channels}, h, w)"
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise UserError(f"{what} are not of type {kind}", f"give a tensor {expected}", what)
    if value.ndim != 4 or value.shape[1] != channels or not value.numel():
        raise UserError(
            f"{what} of shape {tuple(value.shape)} are not possible", f"give {expected}", what
        )
    if not value.is_floating_point():
        cure = "divide by 255" if value.dtype == torch.uint8 else "cast them, as .float()"
        raise UserError(f"{what} are floats, not {value.dtype}", cure, what)


def _check_range(images: Tensor) -> None:
    """Refuse images that are far from [0, 1]; those of an optimisation may leave it a little."""
    if images.is_meta or is_transformed():  # they have no numbers to look at
        return
    low, high = (value.item() for value in images.detach().aminmax())
    if low < -0.05 or high > 1.05:
        raise UserError(
            f"images are from 0 to 1, and these from {low:.3g} to {high:.3g}",
            "undo a scaling (images / 2 + 0.5, images / 255), or clamp them, as .clamp(0, 1)",
            "images",
        )


def _read_place(
    where: Sequence[str | torch.device | torch.dtype], device: torch.device
) -> tuple[torch.device, torch.dtype | None]:
    """The device and the dtype that are named; without a name, `device` and None."""
    dtype: torch.dtype | None = None
    for place in where:
        if isinstance(place, torch.dtype) and place.is_floating_point:
            dtype = place
            continue
        try:
            device = torch.device(place)  # type: ignore[arg-type]
        except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
            raise UserError(
                f"the model cannot be moved to {place!r:.60}",
                "name a device, as 'cpu' or 'cuda', or a dtype, as torch.float16",
                "device",
            ) from error
        try:
            torch.zeros(1, device=device)
        except Exception as error:  # each backend that is missing says so in its own way
            raise UserError(
                f"the device {str(device)!r} cannot be used here",
                "choose another, for example cpu",
                "device",
            ) from error
    return device, dtype


def clamp_with_gradient(images: Tensor) -> Tensor:
    """`images` clamped to [0, 1], with the gradient of no clamp.

    So a picture that is too bright can still be darkened.
    """
    return images + (images.clamp(0.0, 1.0) - images).detach()
