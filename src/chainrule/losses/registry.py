"""Every kind of loss by its name, and how one is written on one line."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import SerializeAsAny, WrapValidator

from chainrule.errors import UserError
from chainrule.losses.aesthetic import AestheticSpec
from chainrule.losses.base import LossSpec
from chainrule.losses.brightness import BrightnessSpec
from chainrule.losses.classifier import ClassifierSpec
from chainrule.losses.clip_direction import ClipDirectionSpec
from chainrule.losses.histogram import HistogramSpec
from chainrule.losses.image import ImageSpec
from chainrule.losses.perceptual import PerceptualSpec
from chainrule.losses.picture import PictureSpec
from chainrule.losses.style import StyleSpec
from chainrule.losses.symmetry import SymmetrySpec
from chainrule.losses.text import TextSpec
from chainrule.specs import Registry

LOSSES: Registry[type[LossSpec]] = Registry(
    "chainrule.losses",
    "loss",
    {
        "classifier": ClassifierSpec,
        "text": TextSpec,
        "image": ImageSpec,
        "clip-direction": ClipDirectionSpec,
        "aesthetic": AestheticSpec,
        "symmetry": SymmetrySpec,
        "brightness": BrightnessSpec,
        "picture": PictureSpec,
        "histogram": HistogramSpec,
        "perceptual": PerceptualSpec,
        "style": StyleSpec,
    },
)
"""Each kind of loss; other packages add theirs through entry points of the same group."""

AnyLoss = Annotated[SerializeAsAny[LossSpec], WrapValidator(LOSSES.parse)]
"""A loss of any kind, as the type of a pydantic field: `losses: tuple[AnyLoss, ...]`."""


def parse_loss(text: str) -> dict[str, Any]:
    """The settings of the loss that a line names, `[WEIGHT*]KIND[=TARGET]`.

    >>> parse_loss("0.5*classifier=heart")
    {'kind': 'classifier', 'weight': 0.5, 'target': 'heart'}

    Returns:
        What `AnyLoss` takes: the kind, the weight, and what the target says.

    Raises:
        UserError: That is not a loss; it says how one is written.
    """
    weight, rest = parse_weight(text)
    kind, equals, target = (part.strip() for part in rest.partition("="))
    known = LOSSES.known.get(kind)
    if known is None or bool(target) != ("=" in known.hint) or bool(equals) != bool(target):
        hints = ", ".join(spec.hint for spec in LOSSES.known.values())
        raise UserError(
            f"{text!r} is not a loss", f"write {hints}, if you like with a weight, as 0.5*..."
        )
    return {"kind": kind, "weight": weight, **known.parse_target(target)}


def parse_weight(text: str) -> tuple[float, str]:
    """The weight, and the rest, of `[WEIGHT*]REST`.

    >>> parse_weight("0.5 * symmetry"), parse_weight("text=2 * 3")
    ((0.5, 'symmetry'), (1.0, 'text=2 * 3'))
    """
    match = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*\*\s*(.+)", text)
    return (float(match[1]), match[2].strip()) if match else (1.0, text.strip())
