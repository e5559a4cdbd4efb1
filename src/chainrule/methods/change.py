"""What DiffusionCLIP and Asyrp share: they learn from pictures a change that words describe."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient import Checkpoint
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import invert, sample
from chainrule.errors import UserError
from chainrule.images import load_picture
from chainrule.losses.base import Loss, sum_losses
from chainrule.losses.clip import Clips, load_clip
from chainrule.losses.clip_direction import ClipDirection, split_change
from chainrule.losses.features import load_features
from chainrule.losses.perceptual import Perceptual
from chainrule.losses.picture import Target
from chainrule.methods.base import Needs, Sheet, Task
from chainrule.methods.thing import AT_ONCE, encode_pictures
from chainrule.methods.training import Training, train
from chainrule.methods.tuning import Learning, Objective, outline_latents
from chainrule.specs import File, NetworkName

SHOWN = 4
"""How many of the pictures that it learnt from are shown, before all others."""
TERMS = 3
Judge = Callable[[Tensor, Tensor], Tensor]
"""From images and their pictures, each (B, 3, H, W), to the `TERMS` of the loss."""


class Changing(Learning):
    """A method that learns to make of pictures, inverted to t_0, others that show a change."""

    needs = Needs.NOISE | Needs.PICTURES
    together: ClassVar[int] = 5
    """After how many chains there is a state."""
    change: str = Field(
        default="", description="What there is > what there should be: 'a dog > a cat'."
    )
    through: Literal["chain", "step"] = Field(
        default="chain", description="What the gradient goes through: the chain, or each step."
    )
    told: str = Field(default="", description="What the network is told, there and back.")
    batch: int = Field(default=1, ge=1, description="How many pictures are drawn at a time.")
    direction: float = Field(default=3.0, ge=0, description="The weight of the direction, w.")
    l1: float = Field(default=1.0, ge=0, description="The weight of the pixels' distance.")
    perceptual: float = Field(default=0.0, ge=0, description="The weight of what features see.")
    features: NetworkName | None = Field(
        default=None,
        description="A VGG's weights (a file), or a vision network; that of the model's world.",
    )
    clip: Clips = Field({"": 1.0}, description="CLIPs with weights; that of the model's world.")
    other: tuple[File, ...] = Field(default=(), description="Pictures on which it is tried only.")

    # --- what each does in its own way ------------------------------------------------------------

    @abstractmethod
    def times(self, task: Task, *, fine: bool = False) -> Tensor:
        """The times from t_0 to the picture: of the inversion, or those by which it learns."""

    @abstractmethod
    def learn(
        self, task: Task, state: Training
    ) -> AbstractContextManager[tuple[Mapping[str, Tensor], Denoiser]]:
        """While this lasts: the leaves, and the network that they change."""

    @abstractmethod
    def use(self, task: Task, state: Training | None) -> AbstractContextManager[Denoiser]:
        """While this lasts: the network after so much training; None: before any."""

    @abstractmethod
    def take_step(
        self, told: Denoiser, x: Tensor, t: float, s: float, last: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """A step that is judged by itself.

        Args:
            told: The network that learns.
            x: What `begin_steps` made of latents, or the step before.
            t: The time.
            s: The time after it.
            last: Whether it is the last that learns.

        Returns:
            The latents that are judged, those that they should differ from (None: the picture's
            own), and what the next step begins with.
        """

    def begin_steps(self, x_t0: Tensor) -> Tensor:
        """What the first step begins with, a row for each of the latents (B, C, h, w)."""
        return x_t0

    @abstractmethod
    def count_steps(self, given: Mapping[str, Tensor]) -> int:
        """How many steps of a chain learn, each by itself."""

    # --- what both do -----------------------------------------------------------------------------

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        if not self.change:
            raise UserError(
                "nothing says what the pictures should become",
                "write what there is > what there should be, as in 'a dog > a cat'",
                "change",
            )
        self.judge(task)  # what cannot be loaded, or says nothing, is refused now
        return prepared

    def tell(self, task: Task) -> Denoiser:
        """The network, as it is asked there and back."""
        return task.model.denoiser(self.told, guidance_scale=1.0)

    def judge(self, task: Task) -> Judge:
        """What is minimised: the direction, the pixels, and what features see."""
        device, world, texts = task.model.device, task.model.world, split_change(self.change)
        clips = [(weight, load_clip(name or world, device)) for name, weight in self.clip.items()]
        way = sum_losses([weight * ClipDirection(clip, None, *texts) for weight, clip in clips])
        features = load_features(self.features or world, device) if self.perceptual else None

        def judge(images: Tensor, pictures: Tensor) -> Tensor:
            terms: list[tuple[float, Loss | None]] = [
                (self.direction, way.given(pictures)),
                (self.l1, Target(pictures, power=1.0)),
                (self.perceptual, None if features is None else Perceptual(features, pictures)),
            ]
            zero = images.new_zeros(())
            return torch.stack(
                [zero if loss is None else w * loss(images).mean() for w, loss in terms]
            )

        return judge

    @torch.no_grad()
    def gather(self, task: Task) -> dict[str, Tensor]:
        """The pictures and the others as the autoencoder leaves them, and their latents at t_0."""
        other = tuple(load_picture(file) for file in self.other)
        size, times = task.plan.batch_size or AT_ONCE, self.times(task, fine=True)
        told, found = self.tell(task), {}
        for name, pictures in (("", task.pictures), ("other ", other)):
            if pictures:
                parts = encode_pictures(replace(task, pictures=pictures)).split(size)
                found[f"{name}pictures"] = torch.cat([task.model.decode(part) for part in parts])
                found[f"{name}x_t0"] = torch.cat([invert(told, part, times)[0] for part in parts])
        return found

    def outline(self, task: Task) -> dict[str, Tensor]:
        factor, found = task.model.codec.factor, {}
        for name, count in (("", len(task.pictures)), ("other ", len(self.other))):
            if count:
                x = outline_latents(task, count)
                height, width = (side * factor for side in x.shape[2:])
                found[f"{name}pictures"] = x.new_zeros(count, 3, height, width)
                found[f"{name}x_t0"] = x
        return found

    def run(
        self, task: Task, state: Training | None = None, on_step: OnStep | None = None
    ) -> Iterator[Training]:
        state, count = self.begin(task) if state is None else state, self.count_iterations(task)
        objective = self.by_chain if self.through == "chain" else self.by_step
        # a state is written between two chains: what a step leaves to the next is in none
        each = 1 if self.through == "chain" else self.count_steps(state.given)
        with self.learn(task, state) as (leaves, told):
            lose, every = objective(task, state.given, told, on_step), each * self.together
            yield from train(leaves, lose, self.moved_by, count, state, every=every)

    def split_batch(self, task: Task, number: int, count: int) -> list[tuple[list[int], float]]:
        """The pictures of a batch, in the plan's parts, each with its share of the loss.

        Args:
            task: Whose plan.
            number: Of the batch.
            count: How many pictures there are.
        """
        batch = [(number * self.batch + i) % count for i in range(self.batch)]
        size = min(task.plan.decoded_at_once or self.batch, self.batch)
        parts = [batch[first : first + size] for first in range(0, self.batch, size)]
        return [(part, len(part) / self.batch) for part in parts]

    def by_chain(
        self, task: Task, given: Mapping[str, Tensor], told: Denoiser, on_step: OnStep | None
    ) -> Objective:
        """The loss of what a whole chain draws."""
        pictures, x_t0, times = given["pictures"], given["x_t0"], self.times(task)
        judge, keep = self.judge(task), Checkpoint(task.plan.keep)

        def lose(k: int) -> Iterator[Tensor]:
            for part, share in self.split_batch(task, k, len(x_t0)):
                x_0 = sample(told, x_t0[part], times, gradient=keep, on_step=on_step)
                yield share * judge(task.model.decode(x_0), pictures[part])

        return lose

    def by_step(
        self, task: Task, given: Mapping[str, Tensor], told: Denoiser, on_step: OnStep | None
    ) -> Objective:
        """The loss of what one step after another sees; no gradient goes from step to step."""
        pictures, x_t0, times = given["pictures"], given["x_t0"], self.times(task).tolist()
        judge, decode, steps = self.judge(task), task.model.decode, self.count_steps(given)
        held = x_t0[:0]

        def lose(k: int) -> Iterator[Tensor]:
            nonlocal held
            number, i = divmod(k, steps)
            parts = self.split_batch(task, number, len(x_t0))
            every = [row for part, _ in parts for row in part]
            batch = held if i else self.begin_steps(x_t0[every])
            after = []
            for (part, share), x in zip(parts, batch.split(len(parts[0][0])), strict=True):
                seen, plain, left = self.take_step(told, x, times[i], times[i + 1], i + 1 == steps)
                after.append(left.detach())
                with torch.no_grad():
                    before = pictures[part] if plain is None else decode(plain)
                yield share * judge(decode(seen), before)
            held = torch.cat(after)
            if on_step:
                on_step(i + 1, steps)

        return lose

    def draw(self, task: Task, x_t0: Tensor, told: Denoiser | None = None) -> Tensor:
        """The images (B, 3, H, W) that latents at t_0 lead to.

        Args:
            task: Whose model and plan.
            x_t0: (B, C, h, w).
            told: The network; None: as it is.
        """
        times, size = self.times(task, fine=True), task.plan.decoded_at_once or AT_ONCE
        told, parts = self.tell(task) if told is None else told, x_t0.split(size)
        return torch.cat([task.model.decode(sample(told, part, times)) for part in parts])

    @torch.no_grad()
    def result(self, task: Task, state: Training) -> Sheet:
        """Some of the pictures, and the others, as they come back before and after."""
        given = state.given
        few = min(SHOWN, len(given["pictures"]))
        pictures, x_t0 = (
            torch.cat([given[name][:few], *([given[f"other {name}"]] if self.other else [])])
            for name in ("pictures", "x_t0")
        )
        columns = {"picture": pictures}
        for name, at in (("before", None), ("after", state)):
            with self.use(task, at) as told:
                columns[name] = self.draw(task, x_t0, told)
        names = ["learnt from" if i < few else "unseen" for i in range(len(x_t0))]
        numbers = state.numbers
        if self.other:
            off = self.judge(task)(columns["after"][few:], pictures[few:])
            numbers |= {"unseen": off.sum().item()}
        captions = {name: [""] * len(names) for name in columns}
        return Sheet(columns, names, captions, self.change, numbers)
