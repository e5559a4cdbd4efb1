"""Stylization by a single picture: AdjointDPM (Pan et al. 2024), section 4.2, eq. 30."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from chainrule.bundled import find_network, is_world
from chainrule.diffusion.gradient import Checkpoint
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import sample
from chainrule.errors import UserError
from chainrule.images import shorten
from chainrule.losses.features import load_features
from chainrule.losses.perceptual import Perceptual
from chainrule.losses.style import Style
from chainrule.methods.base import (
    GuidanceScale,
    Method,
    Needs,
    Sheet,
    Steps,
    Task,
)
from chainrule.methods.style_task import Samples, StyleTask
from chainrule.methods.training import Training
from chainrule.methods.tuning import Objective, Tuning
from chainrule.models import trained
from chainrule.models.base import Model
from chainrule.models.trained import Part
from chainrule.noise import Noise, read_seeds
from chainrule.optimise import Adam
from chainrule.specs import NetworkName

ORDER = Noise((0,))
"""The random numbers of the order of the samples."""


class Stylize(Tuning):
    """Learns the style of one picture, as a LoRA on the cross-attention.

        min  sum over (x_T, prompt)  w_s |G(x_0) - G(picture)|^2 + w_c |F(x_0) - F(x_0 before)|^2

    Pan et al., "AdjointDPM", 2024, section 4.2, eq. 30. The weights of the cross-attention are
    tuned, through the whole chain, until what the network draws has the style of the picture (the
    Gram matrices of a recognition network's features) and still the content of what it drew before.
    What is tuned is a LoRA (Hu et al. 2022): W + B A, with B = 0 at first. It holds for other
    prompts and other noise, and is written for any diffusers program.

    Limits: a style's colours replace those that a prompt names; a narrow window of rates.
    """

    kind: Literal["stylize"] = "stylize"
    needs = Needs.NOISE | Needs.PICTURES | Needs.PROMPT | Needs.PROMPTS
    every: ClassVar[int] = 1
    features: NetworkName | None = Field(
        default=None,
        description="What sees style and content: a VGG's weights (a file) or a transformers "
        "vision network; the CLIP (style) and the classifier (content) of the model's world.",
    )
    other: tuple[str, ...] = Field(default=(), description="Prompts on which it is tried only.")
    other_seeds: Annotated[tuple[int, ...], BeforeValidator(read_seeds)] = Field(
        default=(100, 101), description="Seeds on which it is tried only."
    )
    rank: int = Field(default=8, ge=1, description="The rank of the LoRA.")
    epochs: int = Field(default=8, ge=1, description="How often each prompt meets each seed.")
    batch: int = Field(default=5, ge=1, description="How many images are drawn at a time.")
    steps: Steps = 10
    guidance_scale: GuidanceScale = 1.0
    style: float = Field(default=1.0, ge=0, description="The weight of the style, w_s.")
    content: float = Field(default=0.5, ge=0, description="The weight of the content, w_c.")
    optimiser: Adam = Adam(rate=0.004, beta2=0.999, decay=0.01)

    def count_iterations(self, task: StyleTask) -> int:
        """How many batches all epochs have."""
        return self.epochs * -(-len(task.samples) // self.batch)

    @property
    def part(self) -> Part:
        """What is tuned."""
        return Part(self.rank)

    def probe(self, steps: int) -> Method:
        return self.model_copy(update={"steps": steps, "epochs": 1})

    def prepare(self, task: Task | StyleTask) -> StyleTask:
        if isinstance(task, StyleTask):
            return task
        super().prepare(task)
        if len(task.pictures) != 1:
            raise UserError(
                f"a style is learnt from one picture, not {len(task.pictures)}",
                "name one",
                "pictures",
            )
        if not all(prompt.strip() for prompt in task.prompts):
            raise UserError("a prompt is empty", "name ten or so to tune on", "prompt")
        if self.features is None and task.model.world is None:
            raise UserError(
                "nothing sees the style", "name a VGG's weights or a vision network", "features"
            )
        task.model.text([*task.prompts, *self.other])  # one that is too long is refused now
        device, picture = task.model.device, task.pictures[0].to(task.model.device)
        style, content = (load_features(name, device) for name in self._find_features(task.model))
        return StyleTask(
            task.model, task.prompts, task.seeds, picture, style, content, plan=task.plan
        )

    def _find_features(self, model: Model) -> Sequence[str | Path]:
        """What sees the style, and what the content."""
        if self.features is not None and not is_world(self.features):
            return self.features, self.features
        # in a world, its CLIP knows colours and patterns, its classifier what there is
        world = self.features or model.world
        return find_network(world, "clip"), find_network(world, "classifier")

    def draw(
        self, model: Model, samples: Samples, keep: int = 0, on_step: OnStep | None = None
    ) -> Tensor:
        """The images (B, 3, H, W) of prompts and seeds.

        Args:
            model: What draws.
            samples: B prompts and seeds.
            keep: Of how many steps the graphs are kept.
            on_step: Told after each step.

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        prompts, seeds = zip(*samples, strict=True)
        denoiser = model.denoiser(list(prompts), guidance_scale=self.guidance_scale)
        times = model.schedule.times(self.steps)
        gradient = Checkpoint(keep)
        x_0 = sample(denoiser, model.noise(seeds), times, gradient=gradient, on_step=on_step)
        return model.decode(x_0)

    def _at_once(self, task: StyleTask) -> int:
        """How many images are computed together: as the plan has it, at most a batch."""
        return min(self.batch, task.plan.decoded_at_once or self.batch)

    def count_terms(self, task: StyleTask) -> int:
        return 2

    def objective(
        self, task: StyleTask, given: Mapping[str, Tensor], on_step: OnStep | None = None
    ) -> Objective:
        model, samples, size = task.model, task.samples, self._at_once(task)
        style, batches = Style(task.style, task.picture), -(-len(samples) // self.batch)
        with torch.no_grad():
            before = {
                pair: image
                for part in _split(samples, size)
                for pair, image in zip(part, self.draw(model, part), strict=True)
            }

        def lose(k: int) -> Iterator[Tensor]:
            (order,) = ORDER.stream("stylize/order").generators(k // batches)
            shuffled = torch.randperm(len(samples), generator=order).tolist()
            batch = _split([samples[i] for i in shuffled], self.batch)[k % batches]
            for part in _split(batch, size):
                images = self.draw(model, part, task.plan.keep, on_step)
                content = Perceptual(task.content, torch.stack([before[pair] for pair in part]))
                off, moved = (loss(images).sum() / len(batch) for loss in (style, content))
                yield torch.stack([self.style * off, self.content * moved])

        return lose

    @torch.no_grad()
    def result(self, task: StyleTask, state: Training) -> Sheet:
        """Prompts and seeds that it was tuned on, and others, before and after."""
        shown = [(prompt, task.seeds[0]) for prompt in task.prompts[:3]]
        said = (task.prompts[0], *self.other)
        shown += [(prompt, seed) for prompt in said for seed in self.other_seeds]
        with trained.use(task.model, self.part, {}):
            before = torch.cat([self.draw(task.model, [pair]) for pair in shown])
        with trained.use(task.model, self.part, state.values):
            after = torch.cat([self.draw(task.model, [pair]) for pair in shown])
        columns, captions = {}, {}
        for i, (prompt, seed) in enumerate(shown):
            known = prompt in task.prompts and seed in task.seeds
            name = f"{i + 1}. {'tuned on' if known else f'seed {seed}'}"
            columns[name] = torch.stack([before[i], after[i]])
            captions[name] = [shorten(prompt), ""]
        style, content = state.losses[-1].tolist()
        numbers = {"style": style, "content": content}
        return Sheet(columns, ["before", "after"], captions, "before and after", numbers)


def _split(samples: Samples, size: int) -> list[Samples]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]
