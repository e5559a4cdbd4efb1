"""Images near another one: noises on the sphere around the one that made it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.errors import UserError
from chainrule.methods.base import Drawn, Needs, Steps, Task, require_heeded
from chainrule.methods.chains import OneShot, generate
from chainrule.noise import Noise
from chainrule.specs import File

START = ("best_x_T", "x_T")
"""What a start's file calls its noise, the best one first."""
NEAR = "variations"
"""The stream of z."""


class Variations(OneShot):
    """Draws from noises near that of another image, for images like it.

        x_T = sqrt(1 - b^2) x + b z,   z ~ N(0, I)

    x is the noise of a result, from the file of its state in a run's folder, or that of a seed. The
    move leaves noise noise, as in preconditioned Crank-Nicolson and the moves of Ma et al. 2025
    ("Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps").

    Limits: the chain is DDIM's. At b = 0 the image of another solver, of EDICT's pair or of
    guidance on the way is not drawn again by its noise alone.
    """

    kind: Literal["variations"] = "variations"
    needs = Needs.NOISE
    start: File | None = Field(
        default=None, description="A state's file with the noise of a result; that of a seed."
    )
    row: int = Field(default=0, ge=0, description="Which of the file's images, from 0.")
    near: int = Field(
        default=0, ge=0, lt=2**31, description="Without a file, the seed whose noise is varied."
    )
    apart: float = Field(
        default=0.3, ge=0, le=1, description="b: 0 is the same image, 1 is any other one."
    )
    steps: Steps = 50

    def prepare(self, task: Task) -> Task:
        if self.start is None:
            require_heeded(self, ("row",), "without a file")
        else:
            require_heeded(self, ("near",), "with a file")
        prepared: Task = super().prepare(task)
        return prepared

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        x = self.find_start(task)
        z = task.noise.stream(NEAR).normal(0, task.x_T.shape[1:]).to(task.x_T)
        return generate(
            task, math.sqrt(1 - self.apart**2) * x + self.apart * z, self.steps, on_step=on_step
        )

    def find_start(self, task: Task) -> Tensor:
        """The noise that is varied, (1, C, h, w).

        Args:
            task: Whose images are drawn.

        Raises:
            UserError: The file has no noise, or none that fits the model.
        """
        shape = tuple(task.x_T.shape[1:])
        if self.start is None:
            return Noise((self.near,)).normal(0, shape).to(task.x_T)
        x = _read_noise(self.start)
        x = x[0] if x.ndim == 5 else x  # of EDICT's pair, one
        if x.ndim != 4 or tuple(x.shape[1:]) != shape:
            raise UserError(
                f"the noise in {self.start.name} is {tuple(x.shape)}, and the model's {shape}",
                "choose a run of this model",
                "start",
            )
        if self.row >= len(x):
            raise UserError(f"{self.start.name} has {len(x)} images", "choose one of them", "row")
        return x[self.row : self.row + 1].to(task.x_T)


def _read_noise(path: Path) -> Tensor:
    """The noise that a state's file holds."""
    from safetensors import SafetensorError, safe_open

    cure = "name the file of a state"
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            found = next((name for name in START if name in names), None)
            if found is not None:
                tensor: Tensor = file.get_tensor(found)
                return tensor
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error})", cure, "start") from error
    raise UserError(f"{path} has no noise ({', '.join(START)})", cure, "start")
