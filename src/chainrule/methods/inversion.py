"""Inversion: the noise that a photo would come from, and what the way there and back costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import invert, sample_state
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.base import State as Latents
from chainrule.diffusion.solvers.edict import EDICT
from chainrule.diffusion.time_grids import last_steps
from chainrule.images import restore_proportions
from chainrule.methods.base import (
    Coupling,
    Method,
    Mix,
    Needs,
    Sheet,
    State,
    Steps,
    Strength,
    Task,
    Turns,
    Writer,
)
from chainrule.methods.chains import warn_if_chain_is_lossy
from chainrule.methods.chunking import encode_photos
from chainrule.metrics import psnr

_EDICT = EDICT()
DTYPES = ("float32", "float64")
"""The numbers of the latents that are compared."""
FACTS = ("drift", "apart", "spread", "psnr")
"""What is measured of each."""


@dataclass(frozen=True, eq=False)
class InversionState(State):
    """A photo's inversion, and how it went.

    Args:
        x: (B, C, h, w), the first of EDICT's pair at the noisy end, in float32.
        y: As `x`, the second.
        images: (B, 3, H, W) in [0, 1], what comes back.
        facts: (dtypes, 4), the drift, how far the pair is apart, its spread, the PSNR.
    """

    x: Tensor
    y: Tensor
    images: Tensor
    facts: Tensor
    layout: ClassVar[Mapping[str, str]] = {
        "x": "B C h w",
        "y": "B C h w",
        "images": "B 3 H W",
        "facts": "2 4",
    }


class Inversion(Method):
    """Finds the noise that a photo would come from, and measures the way there and back.

    Wallace, Gokul & Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022.
    The drift is |z' - z| / |z| of the latents; the pair is apart by |x - y| / |x| at the noisy
    end, where its spread is the standard deviation (that of noise is 1).

    Limits: with little `mix`, few steps or strong guidance the pair of latents comes apart.
    """

    kind: Literal["inversion"] = "inversion"
    needs = Needs.PHOTO
    state: ClassVar[type[State]] = InversionState
    strength: Strength = 1.0
    steps: Steps = 50
    mix: Mix = 0.93
    turns: Turns = "code"
    coupling: Coupling = "output"

    def run(
        self, task: Task, state: InversionState | None = None, on_step: OnStep | None = None
    ) -> Iterator[InversionState]:
        if state is not None:
            return
        photo, trips = task.require_photo().images, {}
        for name in DTYPES:
            trips[name] = measure_round_trip(
                task,
                strength=self.strength,
                steps=self.steps,
                solver=EDICT(mix=self.mix, turns=self.turns, coupling=self.coupling),
                dtype=getattr(torch, name),
                on_step=on_step,
            )
        rows = [
            [trip.error, trip.apart, trip.spread, psnr(trip.images, photo).mean().item()]
            for trip in trips.values()
        ]
        first = trips[DTYPES[0]]
        warn_if_chain_is_lossy(task, first.images)
        x, y = first.state
        yield InversionState(x, y, first.images, torch.tensor(rows, dtype=torch.float64))

    def result(self, task: Task, state: InversionState) -> Sheet:
        photo = task.require_photo()
        alone = decode_alone(task, encode_photos(task))
        columns = {"photo": photo.images, "autoencoder": alone, "there and back": state.images}
        decibels = {name: psnr(images, photo.images).tolist() for name, images in columns.items()}
        captions = {name: [f"{value:.1f} dB" for value in row] for name, row in decibels.items()}
        captions["photo"] = [""] * len(photo.images)
        numbers: dict[str, Any] = {
            name: dict(zip(FACTS, row, strict=True))
            for name, row in zip(DTYPES, state.facts.tolist(), strict=True)
        }
        numbers["autoencoder"] = {"psnr": sum(decibels["autoencoder"]) / len(photo.images)}
        shown = {name: restore_proportions(each, photo.size) for name, each in columns.items()}
        return Sheet(shown, [""] * len(photo.images), captions, "there and back", numbers)

    def artefacts(self, task: Task, state: InversionState) -> Mapping[str, Writer]:
        """The pair of latents."""
        from safetensors.torch import save_file

        pair = {name: getattr(state, name).contiguous().cpu() for name in ("x", "y")}
        return {"latents.safetensors": partial(save_file, pair)}


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """A photo's inversion, and what the way there and back does to it.

    Args:
        state: The solver's latents at the noisy end.
        images: (B, 3, H, W) in [0, 1], what comes back.
        error: |z' - z| / |z| of the latents.
        apart: |x - y| / |x| of the pair at the noisy end; 0 for a solver without a pair.
        spread: The standard deviation there; that of noise is 1.
    """

    state: Latents
    images: Tensor
    error: float
    apart: float
    spread: float


def measure_round_trip(
    task: Task,
    *,
    strength: float = 1.0,
    steps: int = 50,
    solver: Solver = _EDICT,
    dtype: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> RoundTrip:
    """Invert the task's photos and come back.

    Args:
        task: Whose photos.
        strength: The share of the chain to walk, above 0 and at most 1.
        steps: Of the whole chain.
        solver: What inverts.
        dtype: The latents' numbers.
        on_step: Told after each step.
    """
    times = last_steps(task.model.schedule.times(steps), strength)
    z = encode_photos(task).to(dtype)
    parts = []
    for rows, part in task.split(task.plan.batch_size):
        denoiser = part.require_photo().denoiser
        begun = invert(denoiser, z[rows], times, solver=solver, on_step=on_step)
        last = sample_state(denoiser, begun, times, solver=solver, on_step=on_step)
        parts.append((*begun, solver.final(last)))
    *state, back = (torch.cat(each) for each in zip(*parts, strict=True))
    error, apart = (
        ((a - b).norm() / b.norm()).item() for a, b in ((back, z), (state[-1], state[0]))
    )
    images = decode_alone(task, back.float())
    return RoundTrip(tuple(state), images, error, apart, state[0].std().item())


def decode_alone(task: Task, latents: Tensor) -> Tensor:
    """The images of `latents` (B, C, h, w) without the photos' own pixels, as the plan allows.

    Args:
        task: Whose model and plan.
        latents: (B, C, h, w).
    """
    parts = task.split(task.plan.decoded_at_once)
    return torch.cat([task.model.decode(latents[rows]) for rows, _ in parts])
