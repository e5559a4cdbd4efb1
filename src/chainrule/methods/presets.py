"""Named settings of DOODL, and of the baseline beside it."""

from __future__ import annotations

from typing import NamedTuple

from chainrule.methods.doodl import Adam, Doodl


class Preset(NamedTuple):
    """`doodl`'s settings, and the scale of one-step guidance that goes with them."""

    doodl: Doodl
    one_step_scale: float


PRESETS = {
    "faithful": Preset(Doodl(), 5.0),
    "tuned": Preset(
        Doodl(start_of=32, iterations=7, steps=20, optimiser=Adam(rate=0.05), mix=None, perturbation=0.0, crops=4), 30.0
    ),
}
"""`faithful` is the paper's for Stable Diffusion; `tuned` was chosen on the bundled world by
`benchmarks/vocabulary.py --tune` (`docs/results.md`): there the rate and the crops hardly matter,
the number of draws among which the start is chosen does."""
