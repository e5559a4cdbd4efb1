"""LoRA files, of whatever format diffusers reads, and what of them a model took.

diffusers says in a log what it leaves out, if at all. So it is found by effect: which tensors of
the file the model's layers have afterwards. The file's tensors go through diffusers' conversion as
the leaves of a graph; a tensor counts as applied if a converted tensor that lies in the model
depends on it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.errors import UserError
from chainrule.models.quiet import quiet
from chainrule.models.tensor_files import find_file, read_tensors, require_finite

FIELD = "loras"
WHAT = "a LoRA"
FORMATS = {
    r"^(unet|text_encoder):\d+:(up|down)$": "in cloneofsimo/lora's format, with numbered layers",
    r"\.hada_": "a LoHa (LyCORIS)",
    r"\.lokr_": "a LoKr (LyCORIS)",
    r"\.on_input$": "an IA3 (LyCORIS)",
    r"\.oft_|\.boft_": "an OFT",
    r"\.[ab][12]\.weight$": "a GLoRA (LyCORIS)",
    r"\.vera_": "a VeRA",
    r"\.diff(_b)?$|\.set_weight$": "of whole differences of the weights",
    r"\.[wb]_norm$": "of changed normalisations",
    r"\.lora_mid\.": "a convolution's LoRA in three factors (Tucker)",
    r"\.dora_scale$": "a DoRA's magnitudes",
}
"""What diffusers does not read, by the names of the tensors."""
OTHERS = {
    r"^base_model\.model\.": "in peft's own format, without the part of the pipeline that it is of",
    r"^(emb_params|clip_[lg]|string_to_param)$|^<[^>]*>$": "a textual inversion",
    r"^model\.diffusion_model\.|^first_stage_model\.": "a whole checkpoint",
}
"""What is no LoRA at all, or does not say of what."""


def load_lora(pipeline: Any, path: str | Path, adapter: str) -> str:
    """Load a LoRA into a pipeline, in place.

    Args:
        pipeline: The diffusers pipeline.
        path: A file or folder.
        adapter: What the LoRA is to be called in its networks.

    Returns:
        What was applied, as a clause.

    Raises:
        UserError: It cannot be read, is of another format or model, or no module takes it.
    """
    from diffusers.utils import is_peft_available

    file = find_file(path, ("pytorch_lora_weights",), WHAT, FIELD)
    if not is_peft_available():
        raise UserError("a LoRA needs peft", "pip install 'chainrule[lora]'", FIELD)
    if not hasattr(pipeline, "load_lora_weights"):
        kind = type(pipeline).__name__
        raise UserError(
            f"a {kind} does not take {WHAT}", "omit it, or choose another checkpoint", FIELD
        )
    tensors = _read(file)
    require_finite(file, list(tensors.values()), FIELD)
    known = {key: value for key, value in tensors.items() if not _name_format(key)}
    bare = all(key.startswith("base_model.") for key in known)
    if bare or not any("lora" in key for key in known):
        raise _unknown(file, list(tensors))
    weights = [key for key in tensors if not key.endswith("alpha")]
    applied = _apply(pipeline, file, known, adapter)
    missed = [key for key in weights if key not in applied]
    if len(missed) == len(weights):
        cause = f"nothing of {file} was applied: this model has no such modules ({_some(missed)})"
        raise UserError(cause, "name a LoRA that was made for it", FIELD)
    if missed:
        warnings.warn(_explain(file, missed, len(weights)), stacklevel=2)
    return f"{len(weights) - len(missed)} of {len(weights)} tensors"


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    found = read_tensors(file, WHAT, FIELD)
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise UserError(
            f"{file} holds tensors without names, as cloneofsimo/lora wrote them",
            "convert it to diffusers' or kohya's format",
            FIELD,
        )
    tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(found):
        raise _unknown(file, list(map(str, found)))
    # eight-bit numbers are for storage only
    exact = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return {key: t if t.dtype in exact else t.float() for key, t in tensors.items()}


def _apply(
    pipeline: Any, file: Path, tensors: Mapping[str, Tensor], adapter: str
) -> frozenset[str]:
    """Load what diffusers reads; which of the tensors the model has afterwards."""
    part = "transformer" if getattr(pipeline, "unet", None) is None else "unet"
    bare = r"^(down_blocks|mid_block|up_blocks|transformer_blocks|single_transformer_blocks)\."
    named = {key: f"{part}.{key}" if re.match(bare, key) else key for key in tensors}
    with torch.enable_grad():
        leaves = {key: value.detach().clone().requires_grad_() for key, value in tensors.items()}
        given = {named[key]: leaf.clone() for key, leaf in leaves.items()}
        converted = _load(pipeline, file, given, adapter)
        landed = _find_landed(pipeline, file, converted, adapter)
        sums = [value.double().sum() for value in landed if value.requires_grad]
        if not sums:
            return frozenset()
        found = torch.autograd.grad(sums, list(leaves.values()), allow_unused=True)
    return frozenset(key for key, used in zip(leaves, found, strict=True) if used is not None)


def _load(pipeline: Any, file: Path, tensors: dict[str, Tensor], adapter: str) -> dict[str, Tensor]:
    """Load tensors by diffusers; what it converted them to."""
    convert, converted = pipeline.lora_state_dict, dict[str, Tensor]()

    def record(*args: Any, **options: Any) -> tuple[Any, ...]:
        found = convert(*args, **options)
        converted.update(found[0])
        _require_pairs(file, converted)
        return ({key: value.detach() for key, value in found[0].items()}, *found[1:])

    pipeline.lora_state_dict = record
    try:
        # what is not yet filled is initialised from the global generator
        with torch.random.fork_rng(devices=[]), quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline.load_lora_weights(tensors, adapter_name=adapter)
    except UserError:
        raise
    except Exception as error:  # diffusers, peft and transformers raise many kinds
        if type(error).__name__ == "NoMatchingPeftModuleError":
            return {}
        raise _explain_failure(file, error) from error
    finally:
        del pipeline.lora_state_dict
    return converted


def _find_landed(
    pipeline: Any, file: Path, converted: Mapping[str, Tensor], adapter: str
) -> list[Tensor]:
    """Of the converted tensors those that the model's layers have.

    Raises:
        UserError: A layer has a part that is not the file's.
    """
    parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    there = {
        name: value
        for part in parts
        for name, value in part.named_parameters()
        if f".{adapter}." in f"{name}."
    }
    empty = [name for name, value in there.items() if value.is_meta]
    if empty:
        raise _broken(file, f"lacks a part of {empty[0].split('.lora_')[0]}")
    found = {_digest(value) for value in there.values()}
    dtypes = {value.dtype for value in there.values()}
    return [
        value
        for value in converted.values()
        if any(_digest(value.to(dtype)) in found for dtype in dtypes)
    ]


def _digest(tensor: Tensor) -> tuple[object, ...]:
    """What tells a tensor from others."""
    exact = tensor.detach().double()
    weights = torch.arange(1.0, exact.numel() + 1, dtype=exact.dtype)
    return (*exact.shape, exact.sum().item(), (exact.flatten() * weights).sum().item())


def _require_pairs(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for a matrix without the one that it is multiplied with."""
    other = {"lora_A": "lora_B", "lora_B": "lora_A", "down": "up", "up": "down"}
    for key, value in tensors.items():
        parts = re.fullmatch(r"(.*[._])(lora_A|lora_B|down|up)(\.weight)", key)
        if parts is None:
            continue
        wanted = f"{parts[1]}{other[parts[2]]}{parts[3]}"
        partner = tensors.get(wanted)
        if partner is None:
            raise _broken(file, f"lacks {wanted}")
        down, up = (value, partner) if parts[2] in ("lora_A", "down") else (partner, value)
        if min(down.dim(), up.dim()) < 2 or down.shape[0] != up.shape[1]:
            shapes = f"{list(down.shape)} and {list(up.shape)}"
            raise _broken(file, f"has matrices that cannot be multiplied ({key}: {shapes})")


def _name_format(key: str) -> str | None:
    """The format that diffusers does not read of which a tensor's name is; None: it may."""
    return next((name for pattern, name in FORMATS.items() if re.search(pattern, key)), None)


def _unknown(file: Path, keys: Sequence[str]) -> UserError:
    """The error for what is no LoRA that diffusers reads."""
    for pattern, name in (FORMATS | OTHERS).items():
        if any(re.search(pattern, key) for key in keys):
            if name == "a textual inversion":
                return UserError(f"{file} is {name}, not {WHAT}", "name it as an embedding", FIELD)
            cause = (
                f"{file} cannot be loaded as a LoRA: it is {name}, which diffusers does not read"
            )
            return UserError(cause, "convert it to diffusers' or kohya's format", FIELD)
    return UserError(
        f"{file} cannot be loaded as a LoRA: it holds {_some(keys)}", "name a LoRA", FIELD
    )


def _broken(file: Path, what: str) -> UserError:
    return UserError(f"{file} is broken: it {what}", "fetch it again", FIELD)


def _explain_failure(file: Path, error: Exception) -> UserError:
    """The error for what diffusers, peft or transformers refuse."""
    text, cure = str(error), "name a LoRA that was made for this model"
    sizes = re.search(r"for (\S+): .*?Size\((\[.*?\])\) from .*?Size\((\[.*?\])\)", text)
    if sizes:
        where = re.sub(r"\.lora_.*", "", sizes[1])
        cause = f"{file} is for another model: at {where} it has {sizes[2]}, this one {sizes[3]}"
        return UserError(cause, cure, FIELD)
    if "size" in text and "mismatch" in text:
        return UserError(f"{file} is for another model, of other sizes", cure, FIELD)
    known = isinstance(error, (ValueError, RuntimeError))
    reason = " ".join(text.split())[:150] if known else "its modules are not this model's"
    return UserError(f"{file} cannot be loaded as a LoRA of this model ({reason})", cure, FIELD)


def _explain(file: Path, missed: Sequence[str], count: int) -> str:
    """The warning that a file was applied in part."""
    formats = {name for name in map(_name_format, missed) if name}
    why = "diffusers does not read them" if formats else "their modules are not in this model"
    kinds = f"; {', '.join(sorted(formats))}" if formats else ""
    return (
        f"{len(missed)} of {count} tensors of {file} were not applied: {why} "
        f"({_some(missed)}{kinds})"
    )


def _some(keys: Sequence[str]) -> str:
    """The first few names."""
    stems = dict.fromkeys(re.sub(r"\.(lora|hada|lokr|dora|diff|alpha).*", "", key) for key in keys)
    few = ", ".join(name[:80] for name in list(stems)[:3])
    return few + (" ..." if len(stems) > 3 else "")
