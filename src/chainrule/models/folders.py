"""Checkpoints in diffusers' format: a folder with an index, and a folder for each part.

Each part is read on its own, by a class of diffusers or transformers that its index names. So
what is missing from a file is found out, and code that lies in a folder is never run.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chainrule.errors import UserError
from chainrule.models.quiet import first_line, reading

AGAIN = "fetch the checkpoint again"
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that are left out: the first would blacken images, the others see pictures for it."""

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[A-Za-z]\w*))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
)
"""The names of files of weights: `model.fp16-00001-of-00002.safetensors`."""


class CheckpointWarning(UserWarning):
    """A checkpoint holds more than is used of it, or leaves something open."""


@dataclass(frozen=True)
class Folder:
    """A checkpoint in diffusers' format.

    Args:
        path: The folder.
        name: What its user calls it, for messages.
        index: What it says of itself.
    """

    path: Path
    name: str
    index: Mapping[str, Any]

    @property
    def family(self) -> str:
        """The pipeline's class."""
        return read_family(self.index)

    def read(self, kind: Any, dtype: torch.dtype, variant: str | None) -> Any:
        """The pipeline.

        Args:
            kind: Its class.
            dtype: The weights'.
            variant: Which of the files of weights, as in diffusers.

        Raises:
            UserError: It is damaged, quantised, of other code, or has no such files.
        """
        wanted, options = kind._get_signature_keys(kind)
        classes = {part: self._find_class(part, kind) for part in wanted}
        self._check_variant(classes, variant)
        parts = {
            part: None if found is None else self._read_part(part, found, dtype, variant)
            for part, found in classes.items()
        }
        given = {name: self.index[name] for name in options if name in self.index}
        with reading(self.name):
            return kind(**parts, **given)

    def check(self, variant: str | None) -> None:
        """Raise UserError if a part's files are not here."""
        for part, named in self.index.items():
            if part in UNUSED or not isinstance(named, list) or named[:1] == [None]:
                continue
            if not (self.path / part).is_dir():
                raise UserError(f"{self.name} is here without its {part}", AGAIN, "model")
            if (self.path / part / "config.json").is_file():
                self._choose_variant(part, variant)

    def _find_class(self, part: str, kind: Any) -> Any:
        """The class of a part; None if it is left out."""
        named = self.index.get(part)
        optional = part in kind._optional_components
        if (part in UNUSED and optional) or named == [None, None] or (named is None and optional):
            return None
        if not (isinstance(named, list) and len(named) == 2 and all(map(_is_name, named))):
            raise UserError(
                f"the index of {self.name} names no {part}", "mend its model_index.json", "model"
            )
        import diffusers
        import transformers

        library, name = named
        own = kind.__module__.partition(".")[0]
        module: Any = {"diffusers": diffusers, "transformers": transformers}.get(library)
        if module is None:
            module = getattr(diffusers.pipelines, library, None)
        if module is None and library == own:
            module = import_module(own)
        with reading(f"the {part} of {self.name}"):
            found = getattr(module, name, None)
        kinds = (nn.Module, diffusers.SchedulerMixin, transformers.PreTrainedTokenizerBase)
        if not (isinstance(found, type) and issubclass(found, kinds)):
            raise UserError(
                f"the {part} of {self.name} is a {library}.{name}, which diffusers and "
                "transformers do not have here, and code that comes with a checkpoint is never run",
                "choose a checkpoint without",
                "model",
            )
        return found

    def _read_part(self, part: str, kind: Any, dtype: torch.dtype, variant: str | None) -> Any:
        folder = self.path / part
        if not folder.is_dir():
            raise UserError(f"{self.name} has no folder {part}", AGAIN, "model")
        what = f"the {part} of {self.name}"
        if not issubclass(kind, nn.Module):
            with reading(what):
                return kind.from_pretrained(folder, local_files_only=True)
        check_plain(_read_json(folder / "config.json", what), what)
        chosen = self._choose_variant(part, variant)
        from diffusers.utils import is_accelerate_available

        options: dict[str, Any] = {"variant": chosen, "dtype": dtype, "output_loading_info": True}
        if kind.__module__.startswith("diffusers"):
            # the default, without a request to install accelerate
            options["low_cpu_mem_usage"] = is_accelerate_available()
        with reading(what):
            network, info = kind.from_pretrained(folder, local_files_only=True, **options)
        check_whole(what, info["missing_keys"], info.get("mismatched_keys", ()))
        _warn_of_unused(what, network, info["unexpected_keys"])
        return network.eval()

    def _choose_variant(self, part: str, variant: str | None) -> str | None:
        """The variant of a part's files: the one asked for, or none where it has only that."""
        found = self._variants(part)
        if variant in found or (variant is not None and None in found):
            return variant if variant in found else None
        if not found:
            raise UserError(
                f"there are no weights in the folder {part} of {self.name}", AGAIN, "model"
            )
        names = " or ".join(sorted(repr(each) for each in found if each))
        asked = "" if variant is None else f", not as {variant!r}"
        raise UserError(
            f"the weights of the {part} of {self.name} are here as the variant {names} only{asked}",
            f"set variant to {names}",
            "variant",
        )

    def _check_variant(self, classes: Mapping[str, Any], variant: str | None) -> None:
        """Raise UserError if no part has the variant."""
        networks = [p for p, kind in classes.items() if kind and issubclass(kind, nn.Module)]
        if variant is None or any(variant in self._variants(part) for part in networks):
            return
        names = sorted({repr(each) for p in networks for each in self._variants(p) if each})
        raise UserError(
            f"{self.name} has no variant {variant!r}",
            f"there is {' and '.join(names)}" if names else "omit it",
            "variant",
        )

    def _variants(self, part: str) -> set[str | None]:
        folder = self.path / part
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return {found["variant"] for name in names if (found := WEIGHTS.fullmatch(name))}


def open_folder(path: Path, name: str) -> Folder:
    """A checkpoint's folder.

    Args:
        path: The folder.
        name: What its user calls it, for messages.

    Raises:
        UserError: It holds none.
    """
    index = path / "model_index.json"
    if not index.is_file():
        cause = f"{path} holds no diffusers pipeline (no model_index.json)"
        raise UserError(cause, _name_better(path), "model")
    found = _read_json(index, "the index of a pipeline")
    return Folder(path, name, found)


def _name_better(path: Path) -> str:
    files = sorted(each.name for each in path.glob("*.safetensors"))
    if files:
        return f"name the file, if {files[0]!r} is a checkpoint"
    return "name the pipeline's own folder"


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        cause = f"{path} is not {what} ({first_line(error)})"
        if path.name == "config.json":
            cause = f"the configuration of {what} cannot be read ({first_line(error)})"
        raise UserError(cause, AGAIN, "model") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not {what}", AGAIN, "model")
    return found


def read_family(index: Any) -> str:
    """The pipeline's class in an index; community pipelines name their module before it."""
    named = index.get("_class_name", "nothing") if isinstance(index, dict) else "nothing"
    return str(named[-1] if isinstance(named, list) and named else named)[:100]


def check_plain(config: Mapping[str, Any], what: str) -> None:
    """Raise UserError if a configuration is of quantised weights.

    Args:
        config: The configuration of a network.
        what: What it is, for messages.
    """
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise UserError(
            f"{what} is quantised ({method or 'by a method of its own'}), which is not supported",
            "choose the checkpoint whose weights are float16, bfloat16 or float32",
            "model",
        )


def check_whole(what: str, missing: Any, mismatched: Any = ()) -> None:
    """Raise UserError if a file lacked some of a network's tensors.

    Args:
        what: The network, for messages.
        missing: The names of those that are not there.
        mismatched: Those of another shape.
    """
    for names, how in ((missing, "missing"), (mismatched, "of another shape than configured")):
        if names:
            listed = sorted(str(n[0] if isinstance(n, (tuple, list)) else n) for n in names)
            raise UserError(
                f"{len(listed)} of the tensors of {what} are {how} ({_list_some(listed)})",
                AGAIN,
                "model",
            )


def _warn_of_unused(what: str, network: nn.Module, unexpected: Any) -> None:
    """Say if a file holds more of a diffusers network than is configured."""
    if unexpected and type(network).__module__.startswith("diffusers"):
        warnings.warn(
            f"the file of {what} holds {len(unexpected)} tensors that its configuration has no "
            f"place for, and they are not used ({_list_some(sorted(map(str, unexpected)))})",
            CheckpointWarning,
            stacklevel=2,
        )


def _list_some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()
