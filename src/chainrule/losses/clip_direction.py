"""The directional loss: an edit moves the photo, in CLIP's space, as one text differs from another.

    L = 1 - cos(E_I(x) - E_I(photo), E_T(target) - E_T(source))

Gal et al., "StyleGAN-NADA: CLIP-Guided Domain Adaptation of Image Generators", 2022; also eq. 7 of
Kim, Kwon & Ye, "DiffusionCLIP", 2022. Where an image does not differ from its photo it has no
direction. Within `NEAR` of the photo the length of its change counts as `NEAR`, so that

    L = 1 - <E_I(x) - E_I(photo), T> / NEAR,    T: the texts' unit direction

there: the loss is 1 at the photo itself, and its gradient, finite, points along the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from chainrule.errors import UserError
from chainrule.images import load_picture
from chainrule.losses.base import Loss, LossSpec, Term, select_picture, sum_losses
from chainrule.losses.clip import Clip, Clips, load_clip
from chainrule.specs import File

NEAR = 0.01
"""The length of a change of the embedding, a unit vector, below which it has no direction."""
ALIKE = 1e-6
"""The distance of two texts' embeddings below which they say the same."""
ARROW = " > "
"""What stands between the two texts."""


def split_change(text: str) -> tuple[str, str]:
    """The two texts of a change.

    >>> split_change("a dog > a cat")
    ('a dog', 'a cat')

    Args:
        text: What there is, and what there should be, with ` > ` between them.

    Returns:
        Both.

    Raises:
        UserError: It is not two texts.
    """
    parts = [part.strip() for part in f" {text} ".split(ARROW)]
    if len(parts) != 2 or not all(parts):
        raise UserError(
            f"{text[:80]!r} does not say what becomes of what",
            f"write two texts with '{ARROW}' between them, as in 'a photo of a dog > a photo of a "
            "cat'",
        )
    return parts[0], parts[1]


def _check_change(text: str) -> str:
    split_change(text)
    return text


Change = Annotated[str, AfterValidator(_check_change)]
"""Two texts with ` > ` between them, as the type of a setting."""


@dataclass(frozen=True, eq=False)
class ClipDirection(Term):
    """How far an edit's way from its photo is from the way between two texts, 0 to 2.

    Args:
        clip: Who sees both ways.
        photos: What the images are edits of: a picture (3, h, w) or (1, 3, h, w) in [0, 1], or one
            for each image, (B, 3, h, w), on the CLIP's device; None: not known yet (`given`).
        source: What the photo shows.
        target: What the image should show.
    """

    clip: Clip
    photos: Tensor | None
    source: str
    target: str
    whole = True

    def __post_init__(self) -> None:
        _ = self.direction

    @property
    def name(self) -> str:
        return f"{self.clip.name} direction={self.source}{ARROW}{self.target}"

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.clip.networks

    @cached_property
    def direction(self) -> Tensor:
        """The unit vector from one text to the other, (1, D)."""
        source, target = self.clip.embed_texts([self.source, self.target])
        if (target - source).norm() < ALIKE:
            raise UserError(
                f"to {self.clip.name}, {self.source[:60]!r} and {self.target[:60]!r} are the same",
                "name two texts that differ",
            )
        return normalize(target - source, dim=0)[None]

    @cached_property
    def origins(self) -> Tensor:
        """The photos' embeddings, (1 or B, D)."""
        if self.photos is None:
            raise _no_photo(self.name)
        photos = self.photos.reshape(-1, *self.photos.shape[-3:])
        with torch.no_grad():
            return self.clip.embed_images(photos)

    def __call__(self, images: Tensor) -> Tensor:
        origins = self.origins.to(images)
        if len(origins) not in (1, len(images)):
            raise UserError(
                f"there are {len(origins)} photos for {len(images)} images",
                "give one for all, or one for each; of some images, use loss.select(rows)",
            )
        change = self.clip.embed_images(images) - origins
        length = change.square().sum(dim=1).clamp(min=NEAR**2).sqrt()
        return 1 - (change * self.direction.to(images)).sum(dim=1) / length

    def given(self, photos: Tensor) -> ClipDirection:
        return replace(self, photos=photos) if self.photos is None else self

    def select(self, rows: Sequence[int]) -> ClipDirection:
        if self.photos is None:
            return self
        return replace(self, photos=select_picture(self.photos, rows))


class ClipDirectionSpec(LossSpec):
    """That the image differs from its photo as one text does from another, to one CLIP or several.

    Without a photo to edit, the picture that it should differ from is named.
    """

    hint: ClassVar[str] = "clip-direction=WORDS > OTHERS"
    kind: Literal["clip-direction"] = "clip-direction"
    target: Change = Field(
        description="What the photo shows, and what the image should: 'a dog > a cat'."
    )
    source: File | None = Field(
        default=None, description="The picture that images differ from; the photo that is edited."
    )
    clip: Clips = Field(
        {"": 1.0},
        description="Any transformers CLIPs or SigLIPs with weights; that of the model's world.",
    )

    def load(self, device: str | torch.device = "cpu") -> Loss:
        photo = None if self.source is None else load_picture(self.source).to(device)
        texts = split_change(self.target)
        return sum_losses(
            [
                weight * ClipDirection(load_clip(name or None, device), photo, *texts)
                for name, weight in self.clip.items()
            ]
        )

    def require_photo(self) -> None:
        if self.source is None:
            raise _no_photo(self.label)


def _no_photo(name: str) -> UserError:
    return UserError(
        f"the loss {name[:80]} compares an image with a photo, and there is none",
        "edit one, or name a picture (source)",
    )
