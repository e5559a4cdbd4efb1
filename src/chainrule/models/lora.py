"""A LoRA (Hu et al. 2022) on a model's attention: W + B A, where B = 0 at first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.models.base import Model

Layers = Literal["cross", "attention"]
"""Which layers have a LoRA: the attention to the prompt, or all attention."""

ADAPTER = "chainrule"
"""The name of the LoRA in the network."""

SEED = 0
"""The seed of its first weights."""


def add_lora(model: Model, rank: int, layers: Layers = "cross") -> dict[str, Tensor]:
    """The LoRA on a model's attention; it is added, in place, if there is none.

    Args:
        model: The model.
        rank: The rank of each matrix, 1 or more, if the LoRA is added.
        layers: Which layers it is on, likewise.

    Returns:
        Its weights by name. They want gradients, and are at least float32.

    Raises:
        UserError: peft is not installed, or the network takes no LoRA.
    """
    network = _network(model)
    targets = _attention(model, network, layers)
    known = getattr(network, "peft_config", {})
    if known and ADAPTER not in known:
        raise UserError(
            "the network has a LoRA already, which would be switched off",
            "fuse it (pipeline.fuse_lora())",
            "loras",
        )
    if not known:
        from peft import LoraConfig

        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
        with torch.random.fork_rng():  # peft draws from the global generator
            torch.manual_seed(SEED)
            network.add_adapter(config, ADAPTER)
    part = f".{ADAPTER}."
    found = {name: value for name, value in network.named_parameters() if part in name}
    for value in found.values():
        if value.dtype in (torch.float16, torch.bfloat16):  # too coarse to be changed a little
            value.data = value.data.float()
    return found


def reset_lora(weights: Mapping[str, Tensor]) -> None:
    """Let a LoRA change nothing, in place: B = 0."""
    with torch.no_grad():
        for name, weight in weights.items():
            if "lora_B" in name:
                weight.zero_()


def has_lora(model: Model) -> bool:
    """Whether a model has the LoRA of `add_lora`."""
    return ADAPTER in getattr(_network(model), "peft_config", {})


def remove_lora(model: Model) -> None:
    """Take the LoRA of `add_lora` away again, in place: the network is as it was."""
    if has_lora(model):
        _network(model).unload_lora()


def lora_weights(model: Model) -> dict[str, Tensor]:
    """The model's LoRA, by the names that diffusers' `save_lora_weights` takes."""
    from peft import get_peft_model_state_dict

    weights: dict[str, Tensor] = get_peft_model_state_dict(_network(model), adapter_name=ADAPTER)
    return weights


def save_lora(path: Path, model: Model) -> None:
    """Write the model's LoRA as diffusers' pipelines do.

    Args:
        path: The safetensors file, which `load(loras=[path])` reads.
        model: A model with a LoRA by `add_lora`.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import SD3LoraLoaderMixin, StableDiffusionLoraLoaderMixin

    weights, folder = lora_weights(model), path.parent
    if isinstance(_network(model), UNet2DConditionModel):
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            folder, unet_lora_layers=weights, weight_name=path.name
        )
    else:
        SD3LoraLoaderMixin.save_lora_weights(
            folder, transformer_lora_layers=weights, weight_name=path.name
        )


def _network(model: Model) -> Any:
    """The diffusers model of the model's network, if it is one."""
    return getattr(model.network, "module", None)


def _attention(model: Model, network: Any, layers: Layers) -> list[str]:
    """The layers that a LoRA goes on: the projections of attention."""
    from diffusers.utils import is_peft_available

    if not is_peft_available():
        raise UserError("tuning weights needs peft", "pip install 'chainrule[lora]'")
    names = [name for name, _ in network.named_modules()] if network is not None else []
    kinds = ("attn2", "attn")
    there = [kind for kind in kinds if any(name.endswith(f"{kind}.to_q") for name in names)]
    if not there or not hasattr(network, "add_adapter"):
        raise UserError(
            f"{model.name} has no attention to its prompt that takes a LoRA",
            "choose a Stable Diffusion or a Flux",
            "model",
        )
    every = ("to_q", "to_k", "to_v", "to_out.0")
    own = ["attn1"] if layers == "attention" and there[0] == "attn2" else []
    return [f"{kind}.{part}" for kind in (*own, there[0]) for part in every]
