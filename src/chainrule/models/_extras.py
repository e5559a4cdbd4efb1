"""What is loaded on top of a checkpoint: new words (textual inversions), and LoRAs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chainrule.errors import UserError
from chainrule.models.embedding_files import teach_file
from chainrule.models.lora_files import load_lora
from chainrule.specs import expand

Embedding = str | Path | tuple[str, str | Path]
"""A file of a word: "file", "word=file", or (word, file)."""
Lora = str | Path | tuple[str | Path, float]
"""A LoRA: "file", "file:0.5", or (file, scale)."""
Embeddings = Sequence[Embedding] | Mapping[str, str | Path] | str | Path
Loras = Sequence[Lora] | Mapping[str, float] | str | Path


def parse_embedding(value: Any) -> tuple[str | None, Path]:
    """The word and the file of an embedding; a file that is there by the whole name goes first.

    >>> parse_embedding("thing=a.pt"), parse_embedding("a.pt")
    (('thing', PosixPath('a.pt')), (None, PosixPath('a.pt')))

    Raises:
        UserError: It is neither a file nor a word with one.
    """
    if isinstance(value, Path):
        return None, expand(value)
    if isinstance(value, str) and value:
        word, equals, file = value.partition("=")
        if not equals or expand(value).exists():
            return None, expand(value)
        if word and file:
            return word, expand(file)
    if isinstance(value, (tuple, list)) and len(value) == 2:
        word, file = value
        if isinstance(word, str) and word and isinstance(file, (str, Path)) and str(file):
            return word, expand(file)
    cause = f"{value!r:.80} is not an embedding"
    raise UserError(cause, "name a file, or a word with its file (word=file)", "embeddings")


def parse_lora(value: Any) -> tuple[Path, float]:
    """The file and the scale of a LoRA; a file that is there by the whole name goes first.

    >>> parse_lora("a.safetensors:0.5"), parse_lora("a.safetensors")
    ((PosixPath('a.safetensors'), 0.5), (PosixPath('a.safetensors'), 1.0))

    Raises:
        UserError: It is neither a file nor one with a scale.
    """
    if isinstance(value, Path):
        return expand(value), 1.0
    if isinstance(value, str) and value:
        file, colon, scale = value.rpartition(":")
        if colon and file and not expand(value).exists():
            number = _parse_number(scale)
            # what follows a colon may as well be the rest of a path
            if number is not None or expand(file).exists():
                return expand(file), _check_scale(value, number)
        return expand(value), 1.0
    if isinstance(value, (tuple, list)) and len(value) == 2:
        file, scale = value
        if isinstance(file, (str, Path)) and str(file) and not isinstance(scale, (str, bool)):
            return expand(file), _check_scale(value, _parse_number(scale))
    cause = f"{value!r:.80} is not a LoRA"
    raise UserError(cause, "name a file, or a file with its scale (file:0.5)", "loras")


def list_embeddings(values: Any) -> list[tuple[str | None, Path]]:
    """The word and the file of each embedding: of one, several, or a mapping."""
    return [parse_embedding(value) for value in _several(values, "embeddings")]


def list_loras(values: Any) -> list[tuple[Path, float]]:
    """The file and the scale of each LoRA: of one, several, or a mapping."""
    return [parse_lora(value) for value in _several(values, "loras")]


def add_extras(pipeline: Any, embeddings: Embeddings, loras: Loras) -> tuple[str, ...]:
    """Load new words and LoRAs into a pipeline, in place.

    Args:
        pipeline: The diffusers pipeline.
        embeddings: The words.
        loras: The LoRAs.

    Returns:
        What was loaded, a line each.

    Raises:
        UserError: For what cannot be loaded, or is not for this model.
    """
    notes = []
    for word, path in list_embeddings(embeddings):
        notes += [f"taught: {told} from {path}" for told in teach_file(pipeline, path, word)]
    scales: dict[str, float] = {}
    for path, scale in list_loras(loras):
        adapter = f"lora{len(scales)}"
        applied = load_lora(pipeline, path, adapter)
        scales[adapter] = scale
        notes.append(f"LoRA: {applied} of {path}, scale {scale:g}")
    if scales:
        pipeline.set_adapters(list(scales), list(scales.values()))  # all, not the last alone
    return tuple(notes)


def _several(values: Any, field: str) -> Sequence[Any]:
    if isinstance(values, Mapping):
        return list(values.items())
    if isinstance(values, (str, Path)):
        return [values]
    if isinstance(values, Sequence):
        return values
    raise UserError(f"{values!r:.80} is no list of files", "name a file, or several", field)


def _parse_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _check_scale(value: Any, scale: float | None) -> float:
    if scale is None or not math.isfinite(scale):
        raise UserError(f"{value!r:.80} has no scale", "write a number, as in file:0.5", "loras")
    return scale
