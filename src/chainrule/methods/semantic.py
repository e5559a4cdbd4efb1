"""Semantic Diffusion Guidance: Liu et al., "More Control for Free!", 2021."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from chainrule.diffusion.guidance import semantic as by
from chainrule.diffusion.guidance.base import Energy
from chainrule.errors import UserError
from chainrule.images import resize
from chainrule.losses.base import weighted_terms
from chainrule.losses.clip import load_clip
from chainrule.losses.image import ClipImage
from chainrule.losses.perceptual import Perceptual
from chainrule.losses.style import Style
from chainrule.losses.text import ClipText
from chainrule.methods.base import Task
from chainrule.methods.chunking import encode_photos
from chainrule.methods.noise_aware import EnergyGuidance, require_world


class SemanticGuidance(EnergyGuidance):
    """Pushes each step by a text, a picture's content, its layout or its style, all together.

        eps' = eps + scale sigma d (sum of weighted energies)(x_t, t) / d x_t        eq. 5, 10

    Liu et al., "More Control for Free! Image Synthesis with Semantic Diffusion Guidance", 2021.
    An image encoder sees the noisy latents. The losses text, image, perceptual (layout) and style
    say what is wanted; an edit without losses is told its prompt and the layout of its photo.

    Limits: somebody must have trained the encoder on the model's noise; each bundled world
    has a small one. In the paper the generator itself is told nothing; here it may be
    told a prompt too.
    """

    kind: Literal["semantic"] = "semantic"
    scale: float = Field(default=50.0, description="How hard the energies push.")

    def find_energy(self, task: Task) -> Energy:
        require_world(task, self.kind, "an image encoder")
        return by.Mixed(find_energies(task))


def find_energies(task: Task) -> list[tuple[float, Energy]]:
    """What the encoder of the model's world is told: the task's losses, with their weights.

    Raises:
        UserError: For losses that it does not know.
    """
    from chainrule.models.noise_aware import load_noise_aware_encoder

    device, world = task.model.device, task.model.world
    encoder = load_noise_aware_encoder(device, world)
    found: list[tuple[float, Energy]] = []
    for weight, term in weighted_terms(task.loss):
        if isinstance(term, ClipText):
            found.append((weight, by.Text(encoder, term.target)))
        elif isinstance(term, ClipImage):
            share = weight / len(term.pictures)
            liked = [_like(task, encoder, picture) for picture in term.pictures]
            found += [(share, by.Image(each)) for each in liked]
        elif isinstance(term, Perceptual):
            found.append((weight, by.Layout(_like(task, encoder, term.picture))))
        elif isinstance(term, Style):
            found.append((weight, by.Style(_like(task, encoder, term.picture))))
        else:
            raise UserError(
                f"semantic guidance knows text, image, perceptual and style, not {term.names[0]}",
                "omit it",
                "loss",
            )
    if not found and task.photo is not None:
        text = load_clip(world, device).embed_texts(list(task.prompts))
        like = by.Likeness(encoder, task.model.schedule, encode_photos(task))
        found = [(1.0, by.Text(encoder, text)), (1.0, by.Layout(like))]
    if not found:
        raise UserError("semantic guidance has nothing to go towards", "name a loss", "loss")
    return found


def _like(task: Task, encoder: Any, picture: Tensor) -> by.Likeness:
    """A picture (3, h, w) to be like, at the size of the task's images."""
    size = tuple(side * task.model.codec.factor for side in task.x_T.shape[-2:])
    z = task.model.encode(resize(picture[None].to(task.model.device), size)).detach()
    return by.Likeness(encoder, task.model.schedule, z)
