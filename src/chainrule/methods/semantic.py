"""Liu et al., "More Control for Free! Image Synthesis with Semantic Diffusion Guidance", 2021.

    eps' = eps + scale sigma d (sum of weighted energies)(x_t, t) / d x_t        eq. 5, 10

A text, a picture's content, its layout or its style guide the chain together, each through an image encoder that sees
noisy latents (`chainrule.diffusion.guidance.semantic`); otherwise as with a noise-aware classifier.
Limits: somebody must have trained the encoder on the model's noise; the bundled one is a small one for the bundled
model (`python -m chainrule.scenes.train semantic`). In the paper the generator itself is told nothing; here it may be
told a prompt too.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance.base import Energy
from chainrule.diffusion.guidance.semantic import Mixed
from chainrule.methods.base import Result, Task
from chainrule.methods.noise_aware import noise_aware


def semantic(
    task: Task,
    *,
    energies: Sequence[tuple[float, Energy]],
    scale: float = 50.0,
    strength: float = 1.0,
    eta: float = 0.0,
    steps: int = 50,
    on_step: OnStep | None = None,
) -> Result:
    """The images of the task's seeds, or its photos redone, guided by weighted energies of the noisy latent."""
    return noise_aware(
        task, energy=Mixed(energies), scale=scale, strength=strength, eta=eta, steps=steps, on_step=on_step
    )
