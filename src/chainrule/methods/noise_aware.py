"""Guidance by a noise-aware classifier: Dhariwal & Nichol 2021."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance.base import Energy
from chainrule.diffusion.guidance.noise_aware import NoiseAware, NoiseAwareMean
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.errors import UserError
from chainrule.losses.base import weighted_terms
from chainrule.losses.classifier import Classifier
from chainrule.methods.base import Drawn, Eta, Steps, Strength, Task
from chainrule.methods.chains import OneShot, add_noise, generate
from chainrule.methods.chunking import encode_photos
from chainrule.models import BUNDLED


class NoiseAwareGuidance(OneShot):
    """Pushes each step by a classifier that sees the noisy latent itself.

        x_s = N(mu - scale Sigma d energy(x_t, t) / d x_t, Sigma)        algorithm 1: eta 1
        eps' = eps + scale sigma d energy(x_t, t) / d x_t                algorithm 2: eta below 1

    Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021. Its gradient needs no
    guess of the finished picture and no backward pass of the generator. With a photo, the chain
    starts at it, under noise.

    Limits: somebody must have trained the classifier on the model's noise; the bundled one knows
    the bundled world's shapes. The gradient is right on average over what may still come, not for
    the picture that will.
    """

    kind: Literal["noise-aware"] = "noise-aware"
    scale: float = Field(default=300.0, description="How hard the classifier pushes.")
    strength: Strength = 1.0
    eta: Eta = 0.0
    steps: Steps = 50

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if prepared.energy is not None:
            return prepared
        return replace(prepared, energy=self._bundled_energy(prepared))

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        energy = self.prepare(task).energy
        if energy is None:
            raise UserError("nothing guides the noisy latents", "give the task an energy")
        return guide_by_energy(
            task,
            energy,
            scale=self.scale,
            strength=self.strength,
            eta=self.eta,
            steps=self.steps,
            on_step=on_step,
        )

    def _bundled_energy(self, task: Task) -> Energy:
        """What the bundled classifier says of the loss's class."""
        require_bundled(task, self.kind, "a classifier")
        _, first = next(iter(weighted_terms(task.loss)), (1.0, None))
        if not isinstance(first, Classifier):
            raise UserError(
                "the noise-aware classifier knows shapes",
                "ask for one first: classifier=SHAPE",
                "loss",
            )
        from chainrule.models.noise_aware import load_noise_aware

        return load_noise_aware(str(first.target), task.model.device)


def require_bundled(task: Task, kind: str, trained: str) -> None:
    """Raise UserError unless the model is the one that somebody `trained` something for."""
    if task.model.name != BUNDLED:
        raise UserError(
            f"{kind} guidance needs {trained} that was trained on the model's noisy latents, and "
            "only the bundled model has one",
            "omit the method, or give the task an energy in Python",
            "method",
        )


def guide_by_energy(
    task: Task,
    energy: Energy,
    *,
    scale: float,
    strength: float,
    eta: float,
    steps: int,
    on_step: OnStep | None = None,
) -> Drawn:
    """The images of the task's seeds, or its photos redone, pushed by an energy of the latents.

    Args:
        task: Whose images.
        energy: (x_t, t) -> (B,), lower where an image should go.
        scale: How hard it pushes.
        strength: The share of the chain that a photo is redone in.
        eta: 1: DDPM's mean is moved; below: the noise is.
        steps: Of the whole chain.
        on_step: Told after each step.
    """
    start = task.x_T
    if task.photo is not None:
        start = add_noise(task, encode_photos(task), steps, strength)
    denoiser: Denoiser = task.denoiser
    solver: Solver = DDPM(task.noise.stream("ddpm"), eta)
    if eta < 1.0:
        denoiser = NoiseAware(denoiser, energy, scale)
    else:
        solver = NoiseAwareMean(DDPM(task.noise.stream("ddpm"), eta), energy, scale)
    return generate(
        task,
        start,
        steps,
        denoiser=denoiser,
        solver=solver,
        strength=strength,
        on_step=on_step,
    )
