"""Weights that a training wrote to files, taken up again: one after another, or mixed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from torch import Tensor

from chainrule.diffusion.denoiser import Denoiser, Prediction, WrappedDenoiser
from chainrule.errors import UserError
from chainrule.models.base import Model
from chainrule.models.quiet import quiet
from chainrule.models.tensor_files import find_file, read_tensors, require_finite
from chainrule.models.trained import Part, use
from chainrule.specs import expand

FIELD = "tuned"
WHOLE = Part()


@dataclass(frozen=True, eq=False)
class Tuned:
    """A network's weights after a training.

    Args:
        values: All of them by name, as `trained.use` takes them; what was not trained is the
            network's own.
        share: How much of the prediction is theirs.
    """

    values: Mapping[str, Tensor]
    share: float


@dataclass(frozen=True, eq=False)
class Mixed(WrappedDenoiser):
    """What a network says with several weights, each with a share; the rest is as it is.

        eps = sum_i share_i eps(x; theta_i) + (1 - sum_i share_i) eps(x; theta)

    Args:
        denoiser: The network.
        model: Whose network it is.
        tuned: The weights.
    """

    denoiser: Denoiser
    model: Model
    tuned: tuple[Tuned, ...]

    def __call__(self, x: Tensor, t: float) -> Prediction:
        rest = 1 - sum(each.share for each in self.tuned)
        said = [(rest, self.denoiser(x, t))] if abs(rest) > 1e-9 else []
        for each in self.tuned:
            if each.share:
                with use(self.model, WHOLE, each.values):
                    said.append((each.share, self.denoiser(x, t)))
        if len(said) == 1:
            return said[0][1]
        x0, eps = zip(*((share * told.x0, share * told.eps) for share, told in said), strict=True)
        return Prediction(reduce(add, x0), reduce(add, eps))


def read_tuned(path: str | Path, model: Model) -> dict[str, Tensor]:
    """All weights of a model's network after a training, by name.

    Args:
        path: What `trained.save` wrote: the file of a LoRA, or the folder of a whole pipeline.
        model: The model that was trained.

    Raises:
        UserError: It is something else, or is of another model.
    """
    own = {
        f"{number} {name}": weight.detach()
        for number, network in enumerate(WHOLE.networks(model))
        for name, weight in network.named_parameters()
    }
    folder = expand(path)
    if (folder / "model_index.json").is_file():
        return _read_folder(folder, model, own)
    file = find_file(path, ("pytorch_lora_weights",), "tuned weights", FIELD)
    return _add_lora(file, own)


def _add_lora(file: Path, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """W + B A, where the file has them."""
    tensors = read_tensors(file, "tuned weights", FIELD)
    found, name = dict(own), r"(?:unet|transformer)\.(.+)\.lora_([AB])\.weight"
    matched = {key: re.fullmatch(name, key) for key in tensors}
    layers = {match[1] for match in matched.values() if match is not None}
    if not layers or not all(matched.values()):
        raise _not_of(file)
    require_finite(file, list(tensors.values()), FIELD)
    part = next(iter(tensors)).partition(".")[0]
    for layer in layers:
        a, b = (tensors.get(f"{part}.{layer}.lora_{each}.weight") for each in "AB")
        keys = [f"0 {layer}{inner}.weight" for inner in ("", ".base_layer")]
        key = next((key for key in keys if key in own), None)
        if a is None or b is None or key is None or own[key].shape != (len(b), a.shape[1]):
            raise _not_of(file)
        change = b.float() @ a.float()
        found[key] = (own[key].float() + change.to(own[key].device)).to(own[key].dtype)
    return found


def _read_folder(folder: Path, model: Model, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network in a pipeline's folder."""
    module: Any = getattr(model.network, "module", None)
    pipeline = getattr(model.text, "pipeline", None)
    parts: Mapping[str, Any] = getattr(pipeline, "components", {})
    name = next((name for name, part in parts.items() if part is module), None)
    if name is None or not (folder / name).is_dir():
        raise _not_of(folder)
    try:
        with quiet():
            network = type(module).from_pretrained(folder, subfolder=name)
    except Exception as error:  # diffusers raises many kinds
        raise _not_of(folder) from error
    found = {f"0 {key}": weight.detach() for key, weight in network.named_parameters()}
    shapes: Sequence[Mapping[str, Any]] = [
        {key: weight.shape for key, weight in each.items()} for each in (found, own)
    ]
    if shapes[0] != shapes[1]:
        raise _not_of(folder)
    return {key: weight.to(own[key].device, own[key].dtype) for key, weight in found.items()}


def _not_of(path: Path) -> UserError:
    return UserError(
        f"{path} has no weights that were tuned from this model",
        "name what a training wrote, a LoRA or the folder of a pipeline, with its model",
        FIELD,
    )
