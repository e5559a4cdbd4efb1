"""A LoRA (Hu et al. 2022) on a model's attention: W + B A, where B = 0 at first.

It is on the network, and may be on the text encoders too: on those whose LoRA diffusers' pipelines
read, which are CLIPs.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Mapping
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

NETWORK = ""
"""Stands for the network among the parts that have a LoRA; the others are text encoders."""

CLIP_ATTENTION = [f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")]
"""The attention of a CLIP's text encoder."""


def add_lora(
    model: Model, rank: int, layers: Layers = "cross", *, text: bool = False
) -> dict[str, Tensor]:
    """The LoRA on a model's attention; it is added, in place, if there is none.

    Args:
        model: The model.
        rank: The rank of each matrix, 1 or more, if the LoRA is added.
        layers: Which layers of the network it is on, likewise.
        text: Whether it is on the attention of the text encoders too.

    Returns:
        Its weights by name, those of a text encoder after its name and a space. They want
        gradients, and are at least float32.

    Raises:
        UserError: peft is not installed, or the network takes no LoRA, or diffusers would not read
            one on the text encoders.
    """
    targets = {NETWORK: _attention(model, _network(model), layers)}
    networks = _parts(model)
    if text:
        targets |= dict.fromkeys(_require_encoders(model), CLIP_ATTENTION)
    found: dict[str, Tensor] = {}
    for part, layer_names in targets.items():
        weights = _add(networks[part], rank, layer_names)
        found |= {f"{part} {name}" if part else name: value for name, value in weights.items()}
    return found


def require_lora(model: Model, *, text: bool = False) -> None:
    """Raise UserError if a model takes no LoRA; warn of a text encoder that will have none.

    Args:
        model: The model.
        text: Whether it is to be on the text encoders too.
    """
    _attention(model, _network(model), "attention")
    if text:
        without = _parts(model).keys() - {NETWORK, *_require_encoders(model)}
        if without:
            warnings.warn(
                f"diffusers reads no LoRA on the {', '.join(sorted(without))} of {model.name}: it "
                "stays as it is",
                stacklevel=2,
            )


def reset_lora(weights: Mapping[str, Tensor]) -> None:
    """Let a LoRA change nothing, in place: B = 0."""
    with torch.no_grad():
        for name, weight in weights.items():
            if "lora_B" in name:
                weight.zero_()


def find_lora(model: Model) -> frozenset[str]:
    """The parts of a model that have the LoRA of `add_lora`: text encoders, or the network ("")."""
    known = {part: getattr(network, "peft_config", {}) for part, network in _parts(model).items()}
    return frozenset(part for part, configs in known.items() if ADAPTER in configs)


def remove_lora(model: Model, *, but: Collection[str] = ()) -> None:
    """Take the LoRA of `add_lora` away again, in place: the networks are as they were.

    Args:
        model: The model.
        but: The parts that keep it, as `find_lora` calls them.
    """
    for part in find_lora(model) - set(but):
        network = _parts(model)[part]
        if part == NETWORK:
            network.unload_lora()
        else:  # transformers takes the weights away, but leaves the layers wrapped
            from diffusers.utils import recurse_remove_peft_layers

            recurse_remove_peft_layers(network)
            del network.peft_config
            network._hf_peft_config_loaded = False


def save_lora(path: Path, model: Model) -> None:
    """Write the model's LoRA as diffusers' pipelines do.

    Args:
        path: The safetensors file, which `load(loras=[path])` reads.
        model: A model with a LoRA by `add_lora`.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import SD3LoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
    from peft import get_peft_model_state_dict

    unet = isinstance(_network(model), UNet2DConditionModel)
    networks, name = _parts(model), "unet" if unet else "transformer"
    weights = {
        f"{part or name}_lora_layers": get_peft_model_state_dict(
            networks[part], adapter_name=ADAPTER
        )
        for part in sorted(find_lora(model))
    }
    # the two know all names; those of others are among theirs
    saver = StableDiffusionXLLoraLoaderMixin if unet else SD3LoraLoaderMixin
    saver.save_lora_weights(path.parent, weight_name=path.name, **weights)


def _add(network: Any, rank: int, targets: list[str]) -> dict[str, Tensor]:
    """The weights of the LoRA on some layers of a network, which is added if there is none."""
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
    found = {name: value for name, value in network.named_parameters() if f".{ADAPTER}." in name}
    for value in found.values():
        if value.dtype in (torch.float16, torch.bfloat16):  # too coarse to be changed a little
            value.data = value.data.float()
    return found


def _network(model: Model) -> Any:
    """The diffusers model of the model's network, if it is one."""
    return getattr(model.network, "module", None)


def _parts(model: Model) -> dict[str, Any]:
    """The network, and the text encoders by their names in the pipeline."""
    pipeline = getattr(model.text, "pipeline", None)
    parts: Mapping[str, Any] = getattr(pipeline, "components", {})
    encoders = {id(network) for network in model.text.networks}
    named = {name: part for name, part in parts.items() if id(part) in encoders}
    return {NETWORK: _network(model), **named}


def _require_encoders(model: Model) -> list[str]:
    """The text encoders whose LoRA diffusers reads. Raises UserError if there is none."""
    save = getattr(getattr(model.text, "pipeline", None), "save_lora_weights", None)
    known = () if save is None else inspect.signature(save).parameters
    found = [
        name
        for name, network in _parts(model).items()
        if f"{name}_lora_layers" in known
        and any(layer.endswith(CLIP_ATTENTION[0]) for layer, _ in network.named_modules())
    ]
    if not found:
        raise UserError(
            f"diffusers reads no LoRA on the text encoders of {model.name}",
            "tune the network alone, or all weights (omit the rank)",
            "text_encoder",
        )
    return found


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
