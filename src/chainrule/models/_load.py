"""From a checkpoint to a Model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.models.base import Model
from chainrule.models.families.registry import FAMILIES, Adapter
from chainrule.models.frozen import copy_frozen_pipeline

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

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
    """A checkpoint as a Model, its weights frozen.

    A pipeline is left as it was: the model shares its weights, in the dtype and on the device that
    they have, with what was loaded into it. Only XL's autoencoder is copied to float32, where half
    precision would overflow.

    Args:
        name: None or "scenes" for the bundled model, a diffusers folder, a name on the hub
            (owner/name), or a pipeline.
        dtype: The weights' (None: float32). Latents are float32.
        device: Where it runs (None: the CPU).
        variant: As in diffusers, for example "fp16".
        size: The images' (height, width) in pixels (None: the checkpoint's own).
        embeddings: Files of new words (textual inversions).
        loras: Files or folders of changes to the weights.

    Raises:
        UserError: There is no such checkpoint, or its family is not supported.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        kinds = "torch.float16, torch.bfloat16, torch.float32 or torch.float64"
        raise UserError(f"a dtype is {kinds}, not {dtype!r}", field="dtype")
    if name is None or name == BUNDLED:
        name = bundled.PIPELINE
    if isinstance(name, (str, Path)):
        files = _Files(dtype or torch.float32, device or "cpu", variant, embeddings, loras)
        source = Path(name).expanduser()
        if source != bundled.PIPELINE:
            return files.load(source, str(name), size)
        model = files.load(source, BUNDLED, size)
        return replace(model, guidance_scale=3.0, photo_scale=1.5)
    if dtype is not None or device is not None or variant is not None or embeddings or loras:
        raise UserError(
            "a pipeline has its own dtype, device, words and LoRA",
            "move it there, or load them into it, before",
        )
    family = type(name).__name__
    return _adapter(family, "the pipeline")(copy_frozen_pipeline(name), family, size)


def installed() -> list[str]:
    """The checkpoints that need no download: the bundled one and those in the hub's cache."""
    from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache
    from huggingface_hub.errors import CacheNotFound

    cache = constants.HF_HUB_CACHE
    try:
        repos = scan_cache_dir(cache).repos
    except CacheNotFound:
        return [BUNDLED]
    cached = sorted(repo.repo_id for repo in repos if repo.repo_type == "model")
    indices = {name: try_to_load_from_cache(name, "model_index.json", cache) for name in cached}
    supported = [
        name
        for name, path in indices.items()
        if isinstance(path, str) and _is_supported(Path(path))
    ]
    return [BUNDLED, *supported]


@dataclass(frozen=True)
class _Files:
    """How checkpoints are loaded from files: the arguments of `load`, resolved."""

    dtype: torch.dtype
    device: str | torch.device
    variant: str | None
    embeddings: Sequence[str | Path]
    loras: Sequence[str | Path]

    def load(self, source: Path, name: str, size: tuple[int, int] | None) -> Model:
        """The model of a folder or of a name on the hub."""
        _check_device(self.device)
        config = _read_index(source)
        adapt = _adapter(_family(config), name)
        pipeline = self._read(source, name, config, _pipeline_class(adapt, _family(config)))
        self._add_to(pipeline)
        return adapt(copy_frozen_pipeline(pipeline.to(self.device)), name, size)

    def _read(self, source: Path, name: str, config: dict[str, Any], pipeline_class: Any) -> Any:
        """The pipeline, without parts that its index leaves out and the safety checker."""
        from diffusers.utils import is_accelerate_available

        # parts that were left out (SD3's T5), and the one that would blacken images
        absent = [part for part, kind in config.items() if kind == [None, None]]
        absent += [part for part in config if part == "safety_checker"]
        try:
            return pipeline_class.from_pretrained(
                str(source),
                dtype=self.dtype,
                variant=self.variant,
                local_files_only=source.is_dir(),
                # the default, without a request to install accelerate
                low_cpu_mem_usage=is_accelerate_available(),
                **dict.fromkeys(absent),
            )
        except (OSError, ValueError) as error:
            cause = f"{name} cannot be loaded"
            raise UserError(cause, str(error).splitlines()[0], "model") from error

    def _add_to(self, pipeline: Any) -> None:
        """Load the new words and the LoRAs into a pipeline."""
        for path in self.embeddings:
            _add(pipeline, "load_textual_inversion", path, "a textual inversion", "embeddings")
        adapters = [f"lora{i}" for i in range(len(self.loras))]
        for path, adapter in zip(self.loras, adapters, strict=True):
            _add(pipeline, "load_lora_weights", path, "a LoRA", "loras", adapter_name=adapter)
        if adapters:
            pipeline.set_adapters(adapters)  # all of them, not the last alone


def _add(
    pipeline: Any, method: str, path: str | Path, what: str, field: str, **options: str
) -> None:
    """Load a file into a pipeline.

    Args:
        pipeline: The pipeline, changed in place.
        method: Its method that loads.
        path: The file or folder.
        what: What that is, in words.
        field: The setting that names it.
        options: More arguments of the method.
    """
    from diffusers.utils import is_peft_available

    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"there is no file {path}", f"name {what}", field)
    if what == "a LoRA" and not is_peft_available():
        raise UserError("a LoRA needs peft", "pip install 'chainrule[lora]'", field)
    if not hasattr(pipeline, method):
        kind = type(pipeline).__name__
        cause = f"a {kind} does not take {what}"
        raise UserError(cause, "omit it, or choose another checkpoint", field)
    try:
        getattr(pipeline, method)(str(path), **options)
    except Exception as error:  # diffusers raises many kinds
        cause = f"{path} cannot be loaded as {what} of this model"
        raise UserError(cause, "name one that was made for it", field) from error


def _adapter(family: str, name: str) -> Adapter:
    """The adapter of a pipeline class; `name` is the checkpoint, for messages."""
    if family not in FAMILIES:
        raise UserError(
            f"{name} is a {family}, which is not supported yet",
            f"{', '.join(FAMILIES)} are",
            "model",
        )
    return FAMILIES[family]


def _pipeline_class(adapt: Adapter, family: str) -> Any:
    """The pipeline class that an adapter brings, or diffusers' of that name."""
    import diffusers

    own = getattr(adapt, "pipeline", None)
    if own is None and not hasattr(diffusers, family):
        raise UserError(
            f"diffusers has no {family} and its adapter brings none",
            "set the adapter's attribute `pipeline` to the class, or install another diffusers",
        )
    return getattr(diffusers, family) if own is None else own


def _is_supported(index: Path) -> bool:
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
        cause = f"the device {str(device)!r} cannot be used here"
        raise UserError(cause, "choose another, for example cpu", "device") from error


def _read_index(source: Path) -> dict[str, Any]:
    """The pipeline's index, from a folder or from the hub.

    The hub is asked only for what looks like a name there (owner/name).
    """
    if source.is_dir():
        return _read_own_index(source)
    if source.is_absolute() or str(source).startswith(".") or len(source.parts) != 2:
        raise UserError(
            f"there is no model {str(source)!r}",
            f"name a diffusers folder, a hub model (owner/name) or {BUNDLED!r}, the bundled one",
            "model",
        )
    from diffusers import DiffusionPipeline

    try:
        index: dict[str, Any] = DiffusionPipeline.load_config(str(source))
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"there is no folder {str(source)!r} "
            f"and the hub does not give a model of that name ({reason})",
            "check the name and the connection",
            "model",
        ) from error
    return index


def _read_own_index(folder: Path) -> dict[str, Any]:
    """The index of a pipeline's folder."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(
            f"{folder} holds no diffusers pipeline (no model_index.json)",
            "name the pipeline's own folder",
            "model",
        )
    try:
        return dict(json.loads(index.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{index} is not the index of a pipeline", "fetch the checkpoint again", "model"
        ) from error
