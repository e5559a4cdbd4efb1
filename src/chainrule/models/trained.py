"""What of a model is trained: a LoRA, or all of its weights. Afterwards it is as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.bundled import write_mark
from chainrule.errors import UserError
from chainrule.models.base import Model
from chainrule.models.lora import (
    Layers,
    add_lora,
    find_lora,
    remove_lora,
    require_lora,
    reset_lora,
    save_lora,
)

UNTRAINED = "chainrule_untrained"
"""Where weights that are trained keep those in whose place they are."""
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Part:
    """What of a model is trained.

    Args:
        rank: The rank of a LoRA on its attention; None: all weights of the network.
        layers: Which attention the LoRA is on.
        text: Whether the text encoders are trained too: all of their weights, or a LoRA on theirs.
    """

    rank: int | None = None
    layers: Layers = "cross"
    text: bool = False

    def networks(self, model: Model) -> tuple[nn.Module, ...]:
        """The networks all of whose weights are trained."""
        if self.rank is not None:
            return ()
        return (*model.network.networks, *(model.text.networks if self.text else ()))


def require(model: Model, part: Part) -> None:
    """Raise UserError if a model has no such part; warn of what of it is not trained.

    Args:
        model: The model.
        part: What of it.
    """
    if part.rank is not None:
        require_lora(model, text=part.text)


@contextmanager
def train(
    model: Model, part: Part, values: Mapping[str, Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """While this lasts, a part of a model wants gradients.

    What is trained is float32, whatever the model's dtype; a network all of whose weights are
    trained computes in bfloat16 if it was in half precision.

    Args:
        model: The model.
        part: What of it.
        values: What it begins as; None: what it is, with a LoRA that changes nothing.

    Yields:
        The weights by name: leaves, to be written to in place.

    Raises:
        UserError: The model has no such part.
    """
    with ExitStack() as undo:
        found: dict[str, Tensor] = {}
        if part.rank is not None:
            found |= undo.enter_context(_tune(model, part, values))
        found |= _exchange(part.networks(model), values, undo, trained=True)
        yield found


@contextmanager
def use(model: Model, part: Part, values: Mapping[str, Tensor]) -> Iterator[None]:
    """While this lasts, a part of a model has other weights, in the model's own dtype, frozen.

    Args:
        model: The model.
        part: What of it.
        values: The weights by name, as `train` yields them; empty: what they were before a
            training, perhaps one that is under way.
    """
    with ExitStack() as undo:
        if part.rank is not None:
            undo.enter_context(_tune(model, part, values))
        _exchange(part.networks(model), values, undo, trained=False)
        yield


def save(path: Path, model: Model, part: Part, values: Mapping[str, Tensor]) -> None:
    """Write what was trained as diffusers reads it.

    Args:
        path: Of a LoRA the safetensors file (`load_lora_weights`); of weights the folder of a
            whole pipeline (`from_pretrained`).
        model: The model.
        part: What of it was trained.
        values: The weights by name, as `train` yields them.

    Raises:
        UserError: The model has no pipeline to be written.
    """
    with use(model, part, values):
        if part.rank is not None:
            save_lora(path, model)
            return
        pipeline = getattr(model.text, "pipeline", None)
        if pipeline is None:
            raise UserError(f"{model.name} has no pipeline to save", "train a LoRA", "rank")
        pipeline.save_pretrained(path)
    if model.world is not None:
        write_mark(path, model.world)


@contextmanager
def _tune(
    model: Model, part: Part, values: Mapping[str, Tensor] | None
) -> Iterator[dict[str, Tensor]]:
    """While this lasts, the model has a LoRA; what it had before, it has again afterwards."""
    nested = find_lora(model)
    weights = add_lora(model, part.rank or 1, part.layers, text=part.text)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        reset_lora(weights)
        _write(weights, values or {})
        yield weights
    finally:
        _write(weights, before)
        remove_lora(model, but=nested)


@torch.no_grad()
def _write(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if name in values:
            weight.copy_(values[name])


def _exchange(
    networks: Sequence[nn.Module],
    values: Mapping[str, Tensor] | None,
    undo: ExitStack,
    *,
    trained: bool,
) -> dict[str, Tensor]:
    """Put other weights in the place of all of some networks', whose own are not touched."""
    found: dict[str, Tensor] = {}
    for number, network in enumerate(networks):
        if trained and next(network.parameters()).dtype in HALF:
            _compute_in_bfloat16(network, undo)
        fresh: dict[int, nn.Parameter] = {}
        for name, weight in network.named_parameters():
            key = f"{number} {name}"
            own = getattr(weight, UNTRAINED, weight)
            value = values[key] if values else weight.detach() if values is None else own.detach()
            value = value.to(weight.device, torch.float32 if trained else weight.dtype)
            leaf = nn.Parameter(value.clone() if trained else value, requires_grad=trained)
            setattr(leaf, UNTRAINED, own)
            fresh[id(weight)] = found[key] = leaf
        for module in network.modules():
            for name, own in list(module._parameters.items()):
                if own is not None:
                    module._parameters[name] = fresh[id(own)]
                    undo.callback(module._parameters.__setitem__, name, own)
    return found


def _compute_in_bfloat16(network: Any, undo: ExitStack) -> None:
    """Let a network compute in bfloat16, whatever its weights are."""
    inner = network.forward
    kind = next(network.parameters()).device.type

    def forward(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(kind, torch.bfloat16):
            return inner(*inputs, **named)

    network.forward = forward
    undo.callback(network.__dict__.pop, "forward")
