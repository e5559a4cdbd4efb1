"""From a checkpoint to a Model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from chainrule.bundled import SCENES, WORLDS, World, find_world, is_world
from chainrule.errors import UserError
from chainrule.models._extras import Embeddings, Loras, add_extras
from chainrule.models.base import Model
from chainrule.models.families.registry import FAMILIES, Adapter
from chainrule.models.folders import Folder, open_folder, read_family
from chainrule.models.frozen import copy_frozen_pipeline
from chainrule.models.hub import fetch
from chainrule.models.quiet import first_line, quiet, reading
from chainrule.models.single_file import SingleFile
from chainrule.specs import expand, suggest

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

BUNDLED = SCENES.name
"""The name of the model that is meant where none is named."""


def load(
    name: str | Path | DiffusionPipeline | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    variant: str | None = None,
    size: tuple[int, int] | None = None,
    embeddings: Embeddings = (),
    loras: Loras = (),
    config: str | Path | None = None,
) -> Model:
    """A checkpoint as a Model, its weights frozen.

    A pipeline is left as it was: the model shares its weights, in the dtype and on the device that
    they have, with what was loaded into it. Only XL's autoencoder is copied to float32, where half
    precision would overflow.

    Args:
        name: A bundled world, "scenes" (None: this one) or "sprites"; a diffusers folder, a single
            .safetensors file in the original layout, a name on the hub (owner/name), or a
            pipeline. A folder of a world's name is meant by a path: "./sprites".
        dtype: The weights' (None: float32). Latents are float32.
        device: Where it runs (None: the CPU).
        variant: As in diffusers, for example "fp16".
        size: The images' (height, width) in pixels (None: the checkpoint's own).
        embeddings: Files of new words (textual inversions): "file", "word=file", (word, file), or
            {word: file}. Without a word it is the file's own, or else the file's name.
        loras: Files or folders of changes to the weights: "file", "file:0.5", (file, 0.5), or
            {file: 0.5}. The scale is any number; 1 is what it was trained for.
        config: Of a single file, the diffusers folder or the name on the hub that has its
            configuration and its tokenizer (None: its family's, if the hub's cache has it).

    Raises:
        UserError: There is no such checkpoint, its family is not supported, or a world's weights
            are not installed.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        kinds = "torch.float16, torch.bfloat16, torch.float32 or torch.float64"
        raise UserError(f"a dtype is {kinds}, not {dtype!r}", field="dtype")
    if name is None or isinstance(name, (str, Path)):
        files = _Files(dtype or torch.float32, device or "cpu", variant, embeddings, loras, config)
        world = find_world(name)
        if world is not None and (is_world(name) or expand(str(name)) == world.pipeline):
            return _load_world(world, files, size)
        called = f"{Path.cwd() / str(name)}" if str(name) in WORLDS else str(name)
        model = files.load(expand(str(name)), called, size)
        return model if world is None else _settle(model, world)
    given = (dtype, device, variant, config)
    if any(each is not None for each in given) or embeddings or loras:
        raise UserError(
            "a pipeline has its own dtype, device, words and LoRA",
            "move it there, or load them into it, before",
        )
    family = type(name).__name__
    return _adapter(family, "the pipeline")(copy_frozen_pipeline(name), family, size)


def installed() -> list[str]:
    """The checkpoints that need no download: the bundled worlds and those in the hub's cache."""
    from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache
    from huggingface_hub.errors import CacheNotFound

    worlds = [name for name, world in WORLDS.items() if world.installed]
    cache = constants.HF_HUB_CACHE
    try:
        repos = scan_cache_dir(cache).repos
    except CacheNotFound:
        return worlds
    cached = sorted(repo.repo_id for repo in repos if repo.repo_type == "model")
    indices = {name: try_to_load_from_cache(name, "model_index.json", cache) for name in cached}
    supported = [
        name
        for name, path in indices.items()
        if isinstance(path, str) and _is_supported(Path(path))
    ]
    return [*worlds, *supported]


def _load_world(world: World, files: _Files, size: tuple[int, int] | None) -> Model:
    """The model of a world. Raises UserError if it is not installed."""
    model = _settle(files.load(world.find("pipeline"), world.name, size), world)
    text = replace(cast(Any, model.text), known=world.words, example=world.example)
    return replace(model, text=text)


def _settle(model: Model, world: World) -> Model:
    """A model whose images are those of a world. It may have been taught words that are not."""
    return replace(
        model,
        world=world.name,
        guidance_scale=world.guidance_scale,
        photo_scale=world.photo_scale,
    )


@dataclass(frozen=True)
class _Files:
    """How checkpoints are loaded from files: the arguments of `load`, resolved."""

    dtype: torch.dtype
    device: str | torch.device
    variant: str | None
    embeddings: Embeddings
    loras: Loras

    config: str | Path | None

    def load(self, source: Path, name: str, size: tuple[int, int] | None) -> Model:
        """The model of a folder, of a file, or of a name on the hub."""
        _check_device(self.device)
        with quiet():
            pipeline, family = self._read(source, name)
            notes = add_extras(pipeline, self.embeddings, self.loras)
            with reading(name, "choose another device or dtype"):
                pipeline = pipeline.to(self.device)
            model = _adapt(pipeline, family, name, size)
        return replace(model, notes=notes) if notes else model

    def _read(self, source: Path, name: str) -> tuple[Any, str]:
        """The pipeline and its family."""
        if source.is_file():
            found = SingleFile(source)
            folder = found.find_config(self.config)
            family = found.check_family(folder.family)
            return found.read(folder, _find_class(family, name), self.dtype), family
        if self.config is not None:
            cause = f"{name} has its own configuration"
            raise UserError(cause, "omit this one, which is for single files", "config")
        folder = self._find_folder(source, name)
        kind = _find_class(folder.family, name)
        return folder.read(kind, self.dtype, self.variant), folder.family

    def _find_folder(self, source: Path, name: str) -> Folder:
        """A folder that is here, or what the hub has by that name (owner/name)."""
        if source.is_dir():
            return open_folder(source, name)
        if source.is_absolute() or str(source).startswith(".") or len(source.parts) != 2:
            raise UserError(
                f"there is no model {str(source)!r}",
                "name a diffusers folder, a .safetensors file, a hub model (owner/name) or "
                f"a bundled one ({', '.join(WORLDS)})",
                "model",
            )
        return fetch(str(source), self.variant, lambda family: _find_class(family, name))


def _adapt(pipeline: Any, family: str, name: str, size: tuple[int, int] | None) -> Model:
    """A pipeline that was loaded from files as a Model."""
    adapt = _adapter(family, name)
    try:
        return adapt(copy_frozen_pipeline(pipeline), name, size)
    except (AttributeError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(
            f"the configuration of {name} is not possible ({first_line(error)})",
            "fetch the checkpoint again",
            "model",
        ) from error


def _find_class(family: str, name: str) -> Any:
    return _pipeline_class(_adapter(family, name), family)


def _adapter(family: str, name: str) -> Adapter:
    """The adapter of a pipeline class; `name` is the checkpoint, for messages."""
    if family not in FAMILIES:
        raise UserError(
            f"{name} is a {family}, which is not supported yet",
            suggest(family, FAMILIES, "docs/checkpoints.md lists those that are, as"),
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
        return read_family(json.loads(index.read_text())) in FAMILIES
    except ValueError:
        return False


def _check_device(device: str | torch.device) -> None:
    cause = f"the device {str(device)!r} cannot be used here"
    cure = "choose another, for example cpu"
    try:
        made = torch.zeros(1, device=device)
    except Exception as error:  # each backend that is missing says so in its own way
        raise UserError(cause, cure, "device") from error
    asked = torch.device(device)
    if made.is_meta or (asked.type == "cpu" and asked.index not in (None, 0)):
        raise UserError(cause, cure, "device")  # it holds no numbers, or there is one CPU
