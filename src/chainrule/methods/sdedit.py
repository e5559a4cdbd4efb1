"""SDEdit: Meng et al., "SDEdit: Guided Image Synthesis and Editing with SDEs", 2022."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.methods.base import Drawn, Eta, Needs, Steps, Task
from chainrule.methods.chains import OneShot, add_noise, generate, reconstruct_photos


class SDEdit(OneShot):
    """Hides a picture under noise as far as the strength goes, and draws it again.

        x_t = alpha_t z + sigma_t eps,    then the last `strength` of the chain    algorithm 1

    Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential
    Equations", 2022. Strokes become things, and things become what the prompt says. Repeated, it
    goes further from the same strength (appendix C). With a mask the rest is kept (algorithm 2).
    At strength 0 a photo comes back as the autoencoder leaves it; 1 is the seeds' plain images.

    Limits: little strength changes little, much strength forgets the picture; no strength does
    neither.
    """

    kind: Literal["sdedit"] = "sdedit"
    needs = Needs.PHOTO
    to_change_more: ClassVar[str] = "raise its strength"
    strength: float = Field(
        default=0.6, ge=0, le=1, description="How much of the chain is redone: more changes more."
    )
    repeats: int = Field(default=1, ge=1, description="How often it is done.")
    eta: Eta = 0.0
    steps: Steps = 50

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        drawn = reconstruct_photos(task)
        if self.strength == 0.0:
            return drawn
        for k in range(self.repeats):
            z, fresh = drawn.latents, task.noise.stream("sdedit/repeats")
            eps = fresh.normal(k, z.shape[1:]) if k else None
            start = add_noise(task, z, self.steps, self.strength, eps)
            drawn = generate(
                task,
                start,
                self.steps,
                solver=DDPM(task.noise.stream("ddpm"), self.eta, first=k * self.steps),
                strength=self.strength,
                on_step=on_step,
            )
        return drawn
