"""DiffusionCLIP: Kim, Kwon & Ye, "Text-Guided Diffusion Models for Robust Image Manipulation"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient import Checkpoint
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import invert, sample
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.time_grids import last_steps
from chainrule.errors import UserError
from chainrule.images import load_picture
from chainrule.losses.base import Loss, sum_losses
from chainrule.losses.clip import Clips, load_clip
from chainrule.losses.clip_direction import ClipDirection, split_change
from chainrule.losses.features import load_features
from chainrule.losses.perceptual import Perceptual
from chainrule.losses.picture import Target
from chainrule.methods.base import (
    Drawn,
    Method,
    Needs,
    Sheet,
    Situation,
    State,
    Steps,
    Strength,
    Task,
    Writer,
)
from chainrule.methods.chains import OneShot, invert_and_generate
from chainrule.methods.thing import AT_ONCE, encode_pictures
from chainrule.methods.training import Training, train
from chainrule.models import trained
from chainrule.models.trained import Part
from chainrule.models.tuned import Mixed, Tuned, read_tuned
from chainrule.optimise import Adam
from chainrule.specs import File, NetworkName

SHOWN = 4
"""How many of the pictures that it was tuned on are shown, before all others."""
Judge = Callable[[Tensor, Tensor], Tensor]
"""From images and their pictures, each (B, 3, H, W), to the terms (3,)."""


class DiffusionCLIP(Method):
    """Tunes the network until pictures that are inverted and drawn again show what a text says.

        x_t0 = the picture, inverted by DDIM to t_0         x' = x_t0, drawn by DDIM
        L = w (1 - cos(E_I(x') - E_I(x), E_T(target) - E_T(source))) + |x' - x| + L_id     eq. 7, 8

    Kim, Kwon & Ye, "DiffusionCLIP", 2022. The pictures are inverted once, in S_for steps, under
    `told`, and drawn in S_gen of them. With `through=chain` the exact gradient goes through all of
    the chain and there is an update for each batch: the paper's quick fine-tuning. With `step` each
    step of the chain judges the picture it predicts and updates at once; no gradient goes from step
    to step: the paper's GPU-efficient fine-tuning. Defaults are those of the public code, which
    takes -log(1 - L/2) of the direction and raises the rate by 1.3 after each epoch; here both are
    plain. L_id is what `features` see instead of a network of faces, and images are compared with
    what the autoencoder makes of the pictures. All weights are tuned, or a LoRA (Hu et al. 2022).
    `diffusion-clip-edit` edits photos with what was learnt, and mixes several.

    Limits: what CLIP cannot tell apart is not changed, or is changed too; one change a training.
    """

    kind: Literal["diffusion-clip"] = "diffusion-clip"
    needs = Needs.NOISE | Needs.PICTURES
    state: ClassVar[type[State]] = Training
    trains: ClassVar[bool] = True
    change: str = Field(
        default="", description="What there is > what there should be: 'a dog > a cat'."
    )
    through: Literal["chain", "step"] = Field(
        default="chain", description="What the gradient goes through: the chain, or each step."
    )
    rank: int | None = Field(default=None, ge=1, description="Of a LoRA; none: all weights.")
    start: float = Field(default=0.5, gt=0, le=1, description="The share of the chain until t_0.")
    steps: Steps = 6
    inversion_steps: int = Field(
        default=80, ge=1, description="Of a whole chain in which pictures are inverted and shown."
    )
    told: str = Field(default="", description="What the network is told, there and back.")
    iterations: int = Field(default=250, ge=1, description="How many batches are drawn.")
    batch: int = Field(default=1, ge=1, description="How many pictures are drawn at a time.")
    optimiser: Adam = Adam(rate=8e-6, beta2=0.999)
    direction: float = Field(default=3.0, ge=0, description="The weight of the direction, w.")
    l1: float = Field(default=1.0, ge=0, description="The weight of the pixels' distance.")
    perceptual: float = Field(default=0.0, ge=0, description="The weight of what features see.")
    features: NetworkName | None = Field(
        default=None, description="A VGG's weights (a file), or a vision network; the bundled one."
    )
    clip: Clips = Field({"": 1.0}, description="CLIPs with their weights; the bundled one.")
    other: tuple[File, ...] = Field(default=(), description="Pictures on which it is tried only.")

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """In the bundled world: shorter chains, larger steps."""
        return {} if situation.name == "faithful" else BUNDLED_WORLD

    @property
    def part(self) -> Part:
        """What is tuned."""
        return Part(self.rank, "attention")

    def count_iterations(self, task: Any) -> int:
        return self.iterations * (self.steps if self.through == "step" else 1)

    def probe(self, steps: int) -> DiffusionCLIP:
        whole = {"steps": steps, "inversion_steps": steps, "start": 1.0, "iterations": 1}
        return self.model_copy(update=whole)

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if not self.change:
            raise UserError(
                "nothing says what the pictures should become",
                "write what there is > what there should be, as in 'a dog > a cat'",
                "change",
            )
        if self.steps > (most := len(self.times(task, fine=True)) - 1):
            raise UserError(
                f"{self.steps} steps do not fit in the {most} of the inversion until t_0",
                "choose fewer, or more steps of the inversion (inversion_steps)",
                "steps",
            )
        self.judge(task)  # what cannot be loaded, or says nothing, is refused now
        return prepared

    def times(self, task: Task, *, fine: bool = False) -> Tensor:
        """The times from t_0 to the picture: of the inversion, or as many of them as are tuned."""
        every = last_steps(task.model.schedule.times(self.inversion_steps), self.start)
        chosen = torch.linspace(0, len(every) - 1, self.steps + 1, dtype=torch.float64)
        return every if fine else every[chosen.round().long()]

    def tell(self, task: Task) -> Denoiser:
        """The network, as it is asked there and back."""
        return task.model.denoiser(self.told, guidance_scale=1.0)

    def judge(self, task: Task) -> Judge:
        """What is minimised: the direction, the pixels, and what features see."""
        device, texts = task.model.device, split_change(self.change)
        clips = [(weight, load_clip(name or None, device)) for name, weight in self.clip.items()]
        way = sum_losses([weight * ClipDirection(clip, None, *texts) for weight, clip in clips])
        features = load_features(self.features, device) if self.perceptual else None

        def judge(images: Tensor, pictures: Tensor) -> Tensor:
            terms: list[tuple[float, Loss | None]] = [
                (self.direction, way.given(pictures)),
                (self.l1, Target(pictures, power=1.0)),
                (self.perceptual, None if features is None else Perceptual(features, pictures)),
            ]
            return torch.stack(
                [
                    images.new_zeros(()) if loss is None else w * loss(images).mean()
                    for w, loss in terms
                ]
            )

        return judge

    @torch.no_grad()
    def gather(self, task: Task) -> dict[str, Tensor]:
        """The pictures and the others as the autoencoder leaves them, and their latents at t_0."""
        other = tuple(load_picture(file) for file in self.other)
        size, times, told = (
            task.plan.batch_size or AT_ONCE,
            self.times(task, fine=True),
            self.tell(task),
        )
        found = {}
        for name, pictures in (("", task.pictures), ("other ", other)):
            if pictures:
                parts = encode_pictures(replace(task, pictures=pictures)).split(size)
                found[f"{name}pictures"] = torch.cat([task.model.decode(part) for part in parts])
                found[f"{name}x_t0"] = torch.cat([invert(told, part, times)[0] for part in parts])
        return found

    def begin(self, task: Task, given: Mapping[str, Tensor]) -> Training:
        """The state before the first iteration."""
        with trained.train(task.model, self.part) as weights:
            return Training.begin(weights, 3, **given)

    def require_own(self, task: Task, state: Training) -> None:
        state.require_like(self.begin(task, state.given), self.count_iterations(task))

    def run(
        self, task: Task, state: Training | None = None, on_step: OnStep | None = None
    ) -> Iterator[Training]:
        state = self.begin(task, self.gather(task)) if state is None else state
        pictures, x_t0 = state.given["pictures"], state.given["x_t0"]
        told, times, judge = self.tell(task), self.times(task), self.judge(task)
        size, held = min(task.plan.decoded_at_once or self.batch, self.batch), x_t0[:0]

        def rows(k: int) -> list[tuple[list[int], float]]:
            """The pictures of batch `k`, in parts, each with its share of the loss."""
            batch = [(k * self.batch + i) % len(x_t0) for i in range(self.batch)]
            parts = [batch[first : first + size] for first in range(0, self.batch, size)]
            return [(part, len(part) / self.batch) for part in parts]

        def chain(k: int) -> Iterator[Tensor]:
            keep = Checkpoint(task.plan.keep)
            for part, share in rows(k):
                x_0 = sample(told, x_t0[part], times, gradient=keep, on_step=on_step)
                yield share * judge(task.model.decode(x_0), pictures[part])

        def step(k: int) -> Iterator[Tensor]:
            nonlocal held
            number, i = divmod(k, self.steps)
            parts = rows(number)
            batch = held if i else x_t0[[row for part, _ in parts for row in part]]
            t, s = times[i].item(), times[i + 1].item()
            left = []
            for (part, share), x in zip(parts, batch.split(size), strict=True):
                x0, eps = told(x, t)
                after = told.schedule.mix(x0, eps, s)
                left.append(after.detach())
                seen = after if i == self.steps - 1 else x0
                yield share * judge(task.model.decode(seen), pictures[part])
            held = torch.cat(left)
            if on_step:
                on_step(i + 1, self.steps)

        # a state is written between two chains: what is held within one is in none
        objective, every = (chain, 5) if self.through == "chain" else (step, 5 * self.steps)
        with trained.train(task.model, self.part) as weights:
            count = self.count_iterations(task)
            yield from train(weights, objective, self.optimiser, count, state, every=every)

    def draw(self, task: Task, x_t0: Tensor) -> Tensor:
        """The images (B, 3, H, W) that latents at t_0 (B, C, h, w) lead to."""
        told, times, size = self.tell(task), self.times(task, fine=True), task.plan.decoded_at_once
        parts = x_t0.split(size or AT_ONCE)
        return torch.cat([task.model.decode(sample(told, part, times)) for part in parts])

    @torch.no_grad()
    def result(self, task: Task, state: Training) -> Sheet:
        """Some of the pictures, and the others, as they come back untuned and tuned."""
        given = state.given
        few = min(SHOWN, len(given["pictures"]))
        both = [
            torch.cat([given[name][:few], *([given[f"other {name}"]] if self.other else [])])
            for name in ("pictures", "x_t0")
        ]
        with trained.use(task.model, self.part, {}):  # also while it is being tuned
            before = self.draw(task, both[1])
        with trained.use(task.model, self.part, state.values):
            after = self.draw(task, both[1])
        columns = {"picture": both[0], "untuned": before, "tuned": after}
        names = ["tuned on" if i < few else "unseen" for i in range(len(before))]
        numbers = state.numbers
        if self.other:
            judge = self.judge(task)
            off = judge(after[few:], both[0][few:])
            numbers |= {"unseen": off.sum().item()}
        captions = {name: [""] * len(names) for name in columns}
        return Sheet(columns, names, captions, self.change, numbers)

    def artefacts(self, task: Task, state: Training) -> Mapping[str, Writer]:
        """A LoRA as diffusers' `load_lora_weights` reads it, or the folder of a whole pipeline."""
        name = "pipeline" if self.rank is None else "pytorch_lora_weights.safetensors"
        write = partial(trained.save, model=task.model, part=self.part, values=state.values)
        return {name: write}


class DiffusionCLIPEdit(OneShot):
    """Inverts a photo under the network as it is, and draws it with weights that were tuned.

        eps = sum_i gamma_i eps_theta_i(x_t, t),  sum_i gamma_i = 1

    Kim, Kwon & Ye, "DiffusionCLIP", 2022: what `diffusion-clip` learnt, on any photo. Several
    changes at once are the mean of what their networks say, weighted (`0.5*FILE`); what the weights
    lack to 1 is the untuned network's, so that one file at 0.5 is half of its change, and two at 1
    are the sum of both. (The paper's weights may change with time; here they do not.)

    Limits: as it was tuned: the same share of the chain, and words only if it was told some.
    """

    kind: Literal["diffusion-clip-edit"] = "diffusion-clip-edit"
    needs = Needs.PHOTO
    to_change_more: ClassVar[str] = "raise the weight of what was tuned, or tune it for longer"
    tuned: dict[NetworkName, float] = Field(
        default={}, description="LoRA files or pipeline folders, with weights: 0.5*FILE."
    )
    strength: Strength = 0.5
    steps: Steps = 80

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """In the bundled world: the steps in which it is tuned there."""
        return {} if situation.name == "faithful" else BUNDLED_EDIT

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if not self.tuned:
            raise UserError("there are no tuned weights", "name what diffusion-clip wrote", "tuned")
        tuned = tuple(Tuned(read_tuned(file, task.model), w) for file, w in self.tuned.items())
        return replace(prepared, denoiser=Mixed(task.denoiser, task.model, tuned))

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return invert_and_generate(
            task, solver=DDIM(), steps=self.steps, strength=self.strength, on_step=on_step
        )


BUNDLED_WORLD: dict[str, Any] = {
    "inversion_steps": 20,
    "start": 0.8,
    "steps": 6,
    "iterations": 120,
    "batch": 4,
    "optimiser": Adam(rate=1e-4, beta2=0.999),
}
BUNDLED_EDIT: dict[str, Any] = {
    "strength": BUNDLED_WORLD["start"],
    "steps": BUNDLED_WORLD["inversion_steps"],
}
