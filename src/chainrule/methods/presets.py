"""Named settings of DOODL, and of the baseline beside it, for each kind of loss."""

from __future__ import annotations

from typing import NamedTuple

from chainrule.errors import UserError
from chainrule.methods.doodl import Adam, Doodl, Momentum


class Preset(NamedTuple):
    """`doodl`'s settings, and the scale of one-step guidance that goes with them.

    For photos, `guidance_scale` is that of an edit by words, and `strength` how much of the chain it redoes.
    """

    doodl: Doodl
    one_step_scale: float
    guidance_scale: float = 3.0
    strength: float = 0.8


NAMES = ("faithful", "tuned")

FAITHFUL_RATES = {"classifier": (0.05, 5.0), "text": (0.1, 30.0), "aesthetic": (1.0, 30.0), "image": (3.0, 300.0)}
"""(DOODL's lambda, the baseline's) of the paper's section 5. Of aesthetics it names no baseline; of personalisation it
says "much higher" than that of text, and five times the iterations."""

TUNED_SCALES = {"classifier": 30.0, "text": 30.0, "aesthetic": 30.0, "image": 300.0}
"""Of one-step guidance on the bundled world. That of classifiers was chosen by `benchmarks/vocabulary.py --tune`; the
others are guesses, until their benchmarks have run."""


def preset(name: str, kind: str = "classifier", *, photo: bool = False) -> Preset:
    """The settings `name` for a loss of a `kind` (`Wish.kind`), and for editing a photo.

    "faithful" is the paper's for Stable Diffusion. "tuned" is for the bundled world, chosen towards classes
    (`docs/results.md`): there the rate and the crops hardly matter, the number of draws among which the start is chosen
    does. Photos are inverted with a mix of 0.99, because with 0.93 the two latents come apart, and words edit with
    little guidance (`benchmarks/inversion.py --tune`). Raises UserError if there is none of that
    name.
    """
    if name not in NAMES:
        raise UserError(f"there is no preset {name!r}: choose {' or '.join(NAMES)}")
    if name == "faithful":
        rate, scale = FAITHFUL_RATES.get(kind, FAITHFUL_RATES["classifier"])
        found = Doodl(iterations=250 if kind == "image" else 50, optimiser=Momentum(rate=rate))
    else:
        scale = TUNED_SCALES.get(kind, TUNED_SCALES["classifier"])
        found = Doodl(
            start_of=32,
            iterations=35 if kind == "image" else 7,
            steps=20,
            optimiser=Adam(rate=0.05),
            mix=None,
            perturbation=0.0,
            crops=4,
        )
    if photo:
        found = found.model_copy(update={"renormalise": False})
        if name == "tuned":
            found = found.model_copy(update={"mix": 0.99, "iterations": 15, "optimiser": Adam(rate=0.02)})
    return Preset(found, scale, 1.5, 0.8) if name == "tuned" else Preset(found, scale)
