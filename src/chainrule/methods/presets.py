"""Named settings of DOODL."""

from __future__ import annotations

from chainrule.methods.doodl import Adam, Doodl

PRESETS = {
    "faithful": Doodl(),
    "tuned": Doodl(iterations=40, steps=20, optimiser=Adam(rate=0.12), mix=None, perturbation=0.0, crops=4),
}
"""`faithful` is the paper's for Stable Diffusion; `tuned` is a first guess for the bundled world: it waits for
`benchmarks/vocabulary.py --tune` on the final generator."""
