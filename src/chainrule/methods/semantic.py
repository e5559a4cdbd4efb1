"""Liu et al., "More Control for Free! Image Synthesis with Semantic Diffusion Guidance", 2021.

    eps' = eps + scale sigma d (sum of weighted energies)(x_t, t) / d x_t        eq. 5, 10

A text, a picture's content, its layout or its style guide the chain together, each through an image encoder that sees
noisy latents (`chainrule.guide.semantic`): its gradient needs no guess of the finished picture and no backward pass of
the generator. With a photo the chain starts at it, under noise.
Limits: somebody must have trained the encoder on the model's noise; the bundled one is a small one for the bundled
model (`python -m chainrule.scenes.train semantic`).
"""

from __future__ import annotations

from chainrule.gradient.base import OnStep
from chainrule.guide.noise_aware import Energy, NoiseAware
from chainrule.methods.base import Result, Task, generate, noised, untouched
from chainrule.step.ddpm import DDPM


def semantic(
    task: Task,
    *,
    energy: Energy,
    scale: float,
    strength: float = 1.0,
    eta: float = 0.0,
    steps: int = 50,
    on_step: OnStep | None = None,
) -> Result:
    """The images of the task's seeds, or its photos redone, pushed by `energy` of the noisy latent."""
    start = task.x_T if task.photo is None else noised(task, untouched(task).latents, steps, strength)
    pushed = NoiseAware(task.denoiser, energy, scale)
    return generate(task, pushed, start, steps, step=DDPM(task.noise, eta), strength=strength, on_step=on_step)
