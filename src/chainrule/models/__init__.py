"""Checkpoints: `load()` makes a Model of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.models.base import Codec, Guidance, Model, Text
from chainrule.models.families import FAMILIES
from chainrule.models.families.base import frozen

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["FAMILIES", "Codec", "Guidance", "Model", "Text", "installed", "load"]

BUNDLED = "scenes"
"""The name of the bundled model."""


def load(
    name: str | Path | DiffusionPipeline | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    variant: str | None = None,
    size: tuple[int, int] | None = None,
    embeddings: Sequence[str | Path] = (),
    loras: Sequence[str | Path] = (),
) -> Model:
    """A checkpoint as a Model: the bundled one (None, or "scenes"), a diffusers folder, a name on the hub, a pipeline.

    `dtype` is the weights' (None: float32), `variant` as in diffusers ("fp16"); latents are float32. `size` is the
    images' (height, width) in pixels (None: the checkpoint's own). `embeddings` are words to be taught (textual
    inversions) and `loras` changes of the weights, files or folders in diffusers' formats. A pipeline is left as it
    was: the model shares its weights, in the dtype and on the device that they have, with what was loaded into it; only
    XL's autoencoder is copied to float32 where half precision would overflow. Raises UserError
    if there is no such checkpoint, or if its family is not supported.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise UserError(f"a dtype is torch.float16, torch.bfloat16, torch.float32 or torch.float64, not {dtype!r}")
    if isinstance(name, (str, Path)) or name is None:
        return _from_files(name, dtype or torch.float32, device or "cpu", variant, size, embeddings, loras)
    if dtype is not None or device is not None or variant is not None or embeddings or loras:
        raise UserError(
            "a pipeline has its own dtype, device, words and LoRA: move it there, or load them into it, before"
        )
    return _adapter(type(name).__name__, "the pipeline")(frozen(name), type(name).__name__, size)


def _from_files(
    name: str | Path | None,
    dtype: torch.dtype,
    device: str | torch.device,
    variant: str | None,
    size: tuple[int, int] | None,
    embeddings: Sequence[str | Path],
    loras: Sequence[str | Path],
) -> Model:
    import diffusers
    from diffusers.utils import is_accelerate_available

    _check_device(device)
    source = bundled.PIPELINE if name in (None, BUNDLED) else Path(name).expanduser()  # type: ignore[arg-type]
    config = _config(source)
    family = _family(config)
    adapt = _adapter(family, str(name))
    # parts that were left out (SD3's T5), and the one that would blacken images
    absent = [part for part, kind in config.items() if kind == [None, None] or part == "safety_checker"]
    try:
        pipeline = getattr(diffusers, family).from_pretrained(
            str(source),
            dtype=dtype,
            variant=variant,
            local_files_only=source.is_dir(),
            low_cpu_mem_usage=is_accelerate_available(),  # the default, without a request to install accelerate
            **dict.fromkeys(absent),
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be loaded: {str(error).splitlines()[0]}") from error
    for path in embeddings:
        _add(pipeline, "load_textual_inversion", path, "a textual inversion")
    adapters = [f"lora{i}" for i in range(len(loras))]
    for path, adapter in zip(loras, adapters, strict=True):
        _add(pipeline, "load_lora_weights", path, "a LoRA", adapter_name=adapter)
    if adapters:
        pipeline.set_adapters(adapters)  # all of them, not the last alone
    model = adapt(frozen(pipeline.to(device)), BUNDLED if source == bundled.PIPELINE else str(name), size)
    return replace(model, guidance_scale=3.0) if source == bundled.PIPELINE else model


def _add(pipeline: Any, method: str, path: str | Path, what: str, **options: str) -> None:
    """Load a file into a pipeline by one of its methods."""
    from diffusers.utils import is_peft_available

    if not Path(path).expanduser().exists():
        raise UserError(f"there is no file {path}: name {what}")
    if what == "a LoRA" and not is_peft_available():
        raise UserError("a LoRA needs peft: pip install 'chainrule[lora]'")
    if not hasattr(pipeline, method):
        raise UserError(f"a {type(pipeline).__name__} does not take {what}: leave it out, or choose another checkpoint")
    try:
        getattr(pipeline, method)(str(Path(path).expanduser()), **options)
    except Exception as error:  # diffusers raises many kinds
        raise UserError(f"{path} cannot be loaded as {what} of this model: name one that was made for it") from error


def _adapter(family: str, name: str) -> Any:
    if family not in FAMILIES:
        raise UserError(f"{name} is a {family}, which is not supported yet: {', '.join(FAMILIES)} are")
    return FAMILIES[family]


def installed() -> list[str]:
    """The checkpoints that can be loaded without a download: the bundled one and those in the hub's cache."""
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache
    from huggingface_hub.errors import CacheNotFound

    try:
        cached = sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        cached = []
    indices = {name: try_to_load_from_cache(name, "model_index.json") for name in cached}
    return [BUNDLED, *(name for name, path in indices.items() if isinstance(path, str) and _supported(Path(path)))]


def _supported(index: Path) -> bool:
    """Whether the pipeline of this index can be adapted."""
    try:
        return _family(json.loads(index.read_text())) in FAMILIES
    except ValueError:
        return False


def _family(index: Any) -> str:
    """The pipeline's class in an index; community pipelines name their module before it."""
    named = index.get("_class_name", "nothing") if isinstance(index, dict) else "nothing"
    return str(named[-1] if isinstance(named, list) and named else named)


def _check_device(device: str | torch.device) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {str(device)!r} cannot be used here: choose another, for example cpu") from error


def _config(source: Path) -> dict[str, Any]:
    """The pipeline's index. A path that is no folder is only then asked of the hub when it looks like a name there."""
    if source.is_dir():
        if not (source / "model_index.json").is_file():
            raise UserError(
                f"{source} holds no diffusers pipeline (no model_index.json): name the pipeline's own folder"
            )
        try:
            return dict(json.loads((source / "model_index.json").read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{source}/model_index.json is no pipeline's index: fetch the checkpoint again") from error
    if source.is_absolute() or str(source).startswith(".") or len(source.parts) != 2:
        raise UserError(
            f"there is no model {str(source)!r}: name a diffusers folder, a hub model (owner/name) or {BUNDLED!r}, "
            "the bundled one"
        )
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.load_config(str(source))  # type: ignore[no-any-return]
    except OSError as error:
        raise UserError(
            f"there is no folder {str(source)!r} and the hub does not give a model of that name "
            f"({str(error).splitlines()[0]}): check the name and the connection"
        ) from error
