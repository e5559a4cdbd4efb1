"""Named settings of DOODL, and of the baseline beside it, for each kind of loss."""

from __future__ import annotations

from typing import NamedTuple

from chainrule.errors import UserError
from chainrule.methods.doodl import Doodl
from chainrule.optimise import Adam, Momentum


class Preset(NamedTuple):
    """`doodl`'s settings, and the scale of one-step guidance that goes with them.

    For photos, `guidance_scale` is that of an edit by words, and `strength` how much of the chain it redoes.
    """

    doodl: Doodl
    one_step_scale: float
    guidance_scale: float = 3.0
    strength: float = 0.8


NAMES = ("faithful", "tuned", "quick")

FAITHFUL_RATES = {"classifier": (0.05, 5.0), "text": (0.1, 30.0), "aesthetic": (1.0, 30.0), "image": (3.0, 300.0)}
"""(DOODL's lambda, the baseline's) of the paper's section 5. Of aesthetics it names no baseline; of personalisation it
says "much higher" than that of text, and five times the iterations."""


class Tuned(NamedTuple):
    """What was chosen for the bundled world; `rate` is Adam's."""

    start_of: int
    iterations: int
    rate: float
    crops: int
    one_step_scale: float


TUNED = {
    "classifier": Tuned(start_of=32, iterations=7, rate=0.05, crops=4, one_step_scale=30.0),
    "text": Tuned(start_of=11, iterations=4, rate=0.01, crops=0, one_step_scale=30.0),
    "aesthetic": Tuned(start_of=32, iterations=7, rate=0.05, crops=4, one_step_scale=30.0),
    "image": Tuned(start_of=46, iterations=10, rate=0.01, crops=0, one_step_scale=30.0),
}
"""By `benchmarks/vocabulary.py --tune`, `text.py --tune` and `personalisation.py --tune`; for ratings, without a photo,
nothing was chosen: they have what classes have."""


QUICK = Doodl(
    start_of=16,
    iterations=30,
    steps=10,
    optimiser=Momentum(rate=100.0, clip=None),
    mix=None,
    perturbation=0.0,
    crops=4,
    target=0.03,
    final_steps=50,
)
"""A tenth of the paper's network passes at most: a cheap look at 16 draws, DDIM in 10 steps instead of EDICT in 50, no
clip, images that are good enough left alone, and 50 steps for the last image only. The solver, the optimiser, the stop
and that a search pays by `benchmarks/budget.py --tune`; as many draws and iterations as a tenth allows."""


def preset(name: str, kind: str = "classifier", *, photo: bool = False) -> Preset:
    """The settings `name` for a loss of a `kind` (`Wish.kind`), and for editing a photo.

    "faithful" is the paper's for Stable Diffusion. "tuned" is for the bundled world (`TUNED`): towards classes the rate
    and the crops hardly matter, the number of draws among which the start is chosen does. Photos are invert_photos with a
    mix of 0.99, because with 0.93 the two latents come apart; their rate was chosen towards ratings
    (`benchmarks/beauty.py --tune`), the little guidance of edits by words by `inversion.py --tune`. "quick" is for
    little work (`QUICK`), from noise; it was chosen towards classes, and for other losses has Adam, whose rate does not
    depend on the loss's scale, and no loss at which to stop. Raises UserError if there is none of that name.
    """
    if name not in NAMES:
        raise UserError(f"there is no preset {name!r}: choose {', '.join(NAMES)}")
    if photo and name == "quick":
        raise UserError("the preset quick draws from noise: for photos, choose faithful or tuned")
    chosen = TUNED.get(kind, TUNED["classifier"])
    scale, adam = chosen.one_step_scale, Adam(rate=chosen.rate)
    if name == "faithful":
        rate, scale = FAITHFUL_RATES.get(kind, FAITHFUL_RATES["classifier"])
        found = Doodl(iterations=250 if kind == "image" else 50, optimiser=Momentum(rate=rate))
    elif name == "quick":
        found = QUICK if kind == "classifier" else QUICK.model_copy(update={"optimiser": adam, "target": None})
    else:
        found = Doodl(
            start_of=chosen.start_of,
            iterations=chosen.iterations,
            steps=20,
            optimiser=adam,
            mix=None,
            perturbation=0.0,
            crops=chosen.crops,
        )
    if photo:
        found = found.model_copy(update={"renormalise": False})
        if name == "tuned":
            found = found.model_copy(update={"mix": 0.99, "iterations": 15, "optimiser": Adam(rate=0.02)})
    return Preset(found, scale) if name == "faithful" else Preset(found, scale, 1.5, 0.8)
