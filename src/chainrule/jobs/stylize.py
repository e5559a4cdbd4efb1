"""A picture's style becomes a LoRA: `chainrule stylize PICTURE`.

pytorch_lora_weights.safetensors   the LoRA, as diffusers' `load_lora_weights` reads it
grid.png                           prompts and seeds that it was tuned on, and others, before and after
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.jobs.base import Job, Moment, Work, save_grid, shortened
from chainrule.losses import load_backbone, load_vgg
from chainrule.losses.perceptual import Features
from chainrule.methods.stylize import StyleTask, Stylization, adapted, draw, iterations, lora, silence, start, stylize
from chainrule.models import BUNDLED
from chainrule.optimise import Training
from chainrule.pictures import grid, load_picture


class StylizeJob(Job):
    """`picture` has the style, `prompts` and `seeds` are tuned on, `others` and `other_seeds` are shown beside them.

    `features`, a VGG's state dict (a file) or a transformers vision network, sees style and content. None is, for the
    style, the bundled CLIP, which knows colours and stripes; for the content, the bundled classifier, which knows
    shapes.
    """

    kind: Literal["stylize"] = "stylize"
    picture: Path
    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = tuple(range(10))
    others: tuple[str, ...] = ()
    other_seeds: tuple[int, ...] = (100, 101)
    features: str | None = None
    stylization: Stylization = Stylization()

    def work(self) -> Work:
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise UserError("there are no prompts to tune on, or an empty one: name some with --prompt, ten or so")
        if self.features is None and self.model != BUNDLED:
            raise UserError("name the network that sees the style: --features, a VGG's weights or a vision network")
        model = self.load()
        model.schedule.times(self.stylization.steps)
        style, content = self._eyes(bundled.CLIP), self._eyes(bundled.CLASSIFIER)
        studio = StyleTask(model, self.prompts, self.seeds, load_picture(self.picture).to(model.device), style, content)
        shown = [(prompt, self.seeds[0]) for prompt in self.prompts[:3]]
        shown += [(prompt, seed) for prompt in (self.prompts[0], *self.others) for seed in self.other_seeds]
        model.text([*self.prompts, *self.others])  # one that is too long is refused now
        return _Work(self, studio, shown)

    def _eyes(self, usual: Path) -> Features:
        """The network that was named, or the `usual` one."""
        file = self.features and Path(self.features).expanduser()
        if file and file.is_file():
            return load_vgg(file, self.device)
        return load_backbone(self.features or usual, self.device)


@dataclass
class _Work(Work):
    job: StylizeJob
    studio: StyleTask
    shown: list[tuple[str, int]]

    @property
    def device(self) -> str:  # type: ignore[override]
        return self.job.device

    @property
    def total(self) -> int:  # type: ignore[override]
        return iterations(self.studio, self.job.stylization)

    def moments(self, tensors: Mapping[str, Tensor] | None) -> Iterator[Moment]:
        settings = self.job.stylization
        state = start(self.studio, settings) if tensors is None else Training.unpacked(tensors)
        for now in stylize(self.studio, settings, state):
            style, content = now.losses[-1].tolist()
            yield Moment(now.packed(), now.iteration, f"style {style:.3f}, content {content:.3f}")

    @torch.no_grad()
    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> Path:
        model, values = self.studio.model, Training.unpacked(tensors).values
        weights = adapted(model, self.job.stylization.rank)
        silence(weights)
        before = torch.cat([draw(model, self.job.stylization, [pair]) for pair in self.shown])
        for name, weight in weights.items():
            weight.copy_(values[name])
        save_lora(folder, model.network.module, lora(model))  # type: ignore[attr-defined]
        after = torch.cat([draw(model, self.job.stylization, [pair]) for pair in self.shown])
        columns, captions = {}, {}
        for i, (prompt, seed) in enumerate(self.shown):
            known = prompt in self.job.prompts and seed in self.job.seeds
            name = f"{i + 1}. {'tuned on' if known else f'seed {seed}'}"
            columns[name], captions[name] = torch.stack([before[i], after[i]]), [shortened(prompt), ""]
        sheet = grid(columns, ["before", "after"], captions, title=self.job.picture.name)
        return save_grid(sheet, folder, self.job)


def save_lora(folder: Path, network: Any, weights: dict[str, Tensor]) -> None:
    """Write a LoRA of a U-Net or a transformer as diffusers' pipelines do."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import SD3LoraLoaderMixin, StableDiffusionLoraLoaderMixin

    if isinstance(network, UNet2DConditionModel):
        StableDiffusionLoraLoaderMixin.save_lora_weights(folder, unet_lora_layers=weights)
    else:
        SD3LoraLoaderMixin.save_lora_weights(folder, transformer_lora_layers=weights)
