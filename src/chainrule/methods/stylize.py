"""Stylization by a single picture: AdjointDPM (Pan et al. 2024), section 4.2, eq. 30.

The weights of the cross-attention are tuned, through the whole chain, until what the network draws has the style of one
picture (the Gram matrices of a recognition network's features) and still the content of what it drew before:

    min over theta of  sum over (x_T, prompt)  w_s |G(x_0) - G(picture)|^2 + w_c |F(x_0) - F(x_0 before)|^2

What is tuned is a LoRA on them (Hu et al. 2022): W + B A, with B = 0 at first. No picture but the one is needed, and
what was learnt holds for other prompts and other noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from chainrule.errors import UserError
from chainrule.diffusion.gradient.checkpoint import Checkpoint
from chainrule.losses.perceptual import Features, Perceptual, Style
from chainrule.models.base import Model
from chainrule.noise import generator
from chainrule.optimise import Adam, Training, train
from chainrule.diffusion.sampling import sample

ADAPTER = "style"
SEED, ORDER = 0, 1 << 22
"""The seed of the adapter's first weights and of the order of the samples; the first draw of the latter."""


class Stylization(BaseModel):
    """The settings: a LoRA of `rank`, tuned for so many `epochs` over all prompts and seeds, `batch` at a time.

    `style` and `content` are w_s and w_c; `steps` is the chain's length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    rank: int = Field(default=8, ge=1)
    epochs: int = Field(default=8, ge=1)
    batch: int = Field(default=5, ge=1)
    steps: int = Field(default=10, ge=1)
    guidance_scale: float = 1.0
    style: float = Field(default=1.0, ge=0)
    content: float = Field(default=0.5, ge=0)
    optimiser: Adam = Adam(rate=0.004, beta2=0.999, decay=0.01)


@dataclass(frozen=True, eq=False)
class StyleTask:
    """What is drawn (each of the `prompts` with each of the `seeds`) in the style of `picture` (3, h, w).

    `style` sees the style and `content` the content of an image; in the paper, both are one VGG.
    """

    model: Model
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    picture: Tensor
    style: Features
    content: Features

    @property
    def samples(self) -> list[tuple[str, int]]:
        """All prompts with all seeds."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


def iterations(studio: StyleTask, settings: Stylization) -> int:
    """How many batches all epochs have."""
    return settings.epochs * -(-len(studio.samples) // settings.batch)


def draw(model: Model, settings: Stylization, samples: list[tuple[str, int]]) -> Tensor:
    """The images (B, 3, H, W) of prompts and seeds."""
    denoiser = model.denoiser([prompt for prompt, _ in samples], guidance_scale=settings.guidance_scale)
    x_T = model.noise([seed for _, seed in samples])
    return model.decode(sample(denoiser, x_T, model.schedule.times(settings.steps), gradient=Checkpoint()))


def adapted(model: Model, rank: int) -> dict[str, Tensor]:
    """The weights by name of the LoRA on the model's cross-attention, which want gradients; it is made if need be.

    Raises UserError without peft, or if the network has no attention that could be tuned.
    """
    try:
        from peft import LoraConfig
    except ModuleNotFoundError:
        raise UserError("tuning weights needs peft: pip install 'chainrule[lora]'") from None
    network: Any = getattr(model.network, "module", None)
    names = [name for name, _ in network.named_modules()] if network is not None else []
    kinds = [kind for kind in ("attn2", "attn") if any(name.endswith(f"{kind}.to_q") for name in names)]
    if not kinds or not hasattr(network, "add_adapter"):
        raise UserError(
            f"{model.name} has no attention to its prompt that takes a LoRA: choose a Stable Diffusion or a Flux"
        )
    targets = [f"{kinds[0]}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]
    known = getattr(network, "peft_config", {})
    if known and ADAPTER not in known:
        raise UserError("the network has a LoRA already, which would be switched off: fuse it (pipeline.fuse_lora())")
    if not known:
        with torch.random.fork_rng():  # peft draws from the global generator
            torch.manual_seed(SEED)
            network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), ADAPTER)
    found = {name: value for name, value in network.named_parameters() if f".{ADAPTER}." in name}
    for value in found.values():
        if value.dtype in (torch.float16, torch.bfloat16):  # too coarse to be changed a little
            value.data = value.data.float()
    return found


def silence(weights: Mapping[str, Tensor]) -> None:
    """Let a LoRA change nothing: W + B A = W where B = 0."""
    with torch.no_grad():
        for name, weight in weights.items():
            if "lora_B" in name:
                weight.zero_()


def lora(model: Model) -> dict[str, Tensor]:
    """The model's LoRA as diffusers' `save_lora_weights` wants it."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model.network.module, adapter_name=ADAPTER)  # type: ignore[no-any-return, attr-defined]


def start(studio: StyleTask, settings: Stylization) -> Training:
    """The state before the first batch: with it, the network draws what it drew."""
    return Training.of(adapted(studio.model, settings.rank), 2)


def stylize(studio: StyleTask, settings: Stylization | None = None, state: Training | None = None) -> Iterator[Training]:
    """The states after each batch. The model is tuned in place, `lora(model)` is what it learnt."""
    settings = settings or Stylization()
    model, samples = studio.model, studio.samples
    weights = adapted(model, settings.rank)
    state = state or start(studio, settings)
    with torch.no_grad():
        silence(weights)  # `train` writes the state's values over it
        before = {
            pair: image
            for part in _batches(samples, settings.batch)
            for pair, image in zip(part, draw(model, settings, part), strict=True)
        }
    style, batches = Style(studio.style, studio.picture), -(-len(samples) // settings.batch)

    def objective(k: int) -> Tensor:
        order = torch.randperm(len(samples), generator=generator(SEED, ORDER + k // batches)).tolist()
        batch = _batches([samples[i] for i in order], settings.batch)[k % batches]
        images = draw(model, settings, batch)
        content = Perceptual(studio.content, torch.stack([before[pair] for pair in batch]))
        return torch.stack([settings.style * style(images).mean(), settings.content * content(images).mean()])

    return train(weights, objective, settings.optimiser, iterations(studio, settings), state)


def _batches(samples: list[tuple[str, int]], size: int) -> list[list[tuple[str, int]]]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]
