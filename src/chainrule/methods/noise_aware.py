"""Guidance by a noise-aware classifier: Dhariwal & Nichol 2021."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

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


class EnergyGuidance(OneShot):
    """Pushes each step by an energy of the noisy latent: the task's, or one that is bundled."""

    with_photo = ("strength",)
    to_change_more: ClassVar[str] = "raise its scale, or its strength"
    scale: float = Field(default=300.0, description="How hard the energy pushes.")
    strength: Strength = 1.0
    eta: Eta = 0.0
    steps: Steps = 50

    @abstractmethod
    def find_energy(self, task: Task) -> Energy:
        """The energy of the model's world for a task. Raises UserError if there is none."""

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if prepared.energy is not None:
            return prepared
        return replace(prepared, energy=self.find_energy(prepared))

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        energy = self.find_energy(task) if task.energy is None else task.energy
        start = task.x_T
        if task.photo is not None:
            start = add_noise(task, encode_photos(task), self.steps, self.strength)
        denoiser: Denoiser = task.denoiser
        ddpm = DDPM(task.noise.stream("ddpm"), self.eta)
        solver: Solver = ddpm
        if self.eta < 1.0:
            denoiser = NoiseAware(denoiser, energy, self.scale)
        else:
            solver = NoiseAwareMean(ddpm, energy, self.scale)
        return generate(
            task,
            start,
            self.steps,
            denoiser=denoiser,
            solver=solver,
            strength=self.strength,
            on_step=on_step,
        )


class NoiseAwareGuidance(EnergyGuidance):
    """Pushes each step by a classifier that sees the noisy latent itself.

        x_s = N(mu - scale Sigma d energy(x_t, t) / d x_t, Sigma)        algorithm 1: eta 1
        eps' = eps + scale sigma d energy(x_t, t) / d x_t                algorithm 2: eta below 1

    Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021. Its gradient needs no
    guess of the finished picture and no backward pass of the generator. With a photo, the chain
    starts at it, under noise.

    Limits: somebody must have trained the classifier on the model's noise; each bundled world has
    one, of its own classes. The gradient is right on average over what may still come, not for
    the picture that will.
    """

    kind: Literal["noise-aware"] = "noise-aware"

    def find_energy(self, task: Task) -> Energy:
        """What the classifier of the model's world says of the loss's class."""
        world = require_world(task, self.kind, "a classifier")
        _, first = next(iter(weighted_terms(task.loss)), (1.0, None))
        if not isinstance(first, Classifier):
            raise UserError(
                "the noise-aware classifier knows classes",
                "ask for one first: classifier=CLASS",
                "loss",
            )
        from chainrule.models.noise_aware import load_noise_aware

        return load_noise_aware(str(first.target), task.model.device, world)


def require_world(task: Task, kind: str, trained: str) -> str:
    """The world that the model is of, for which somebody `trained` something.

    Args:
        task: Whose model.
        kind: The method.
        trained: What somebody has to have trained, in words.

    Raises:
        UserError: It is of none.
    """
    if task.model.world is None:
        raise UserError(
            f"{kind} guidance needs {trained} that was trained on the model's noisy latents, and "
            "only the bundled models have one",
            "omit the method, or give the task an energy in Python",
            "method",
        )
    return task.model.world
