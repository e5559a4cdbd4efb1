"""Textual inversions (Gal et al. 2022) as files: new words, and the vectors that they read as."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.models.tensor_files import find_file, open_box, read_tensors, require_finite
from chainrule.models.tokens import is_known, text_encoders, tokenizers

FIELD = "embeddings"
WHAT = "a textual inversion"
ENCODERS = ("clip_l", "clip_g")
"""The first and the second text encoder of XL, as its files call them."""
NAMELESS = ("emb_params", "*")
"""Names of tensors that are no words."""


@dataclass(frozen=True)
class _Word:
    """A new word.

    Args:
        word: As it is typed in a prompt.
        vectors: For each text encoder its token embeddings (n, D).
    """

    word: str
    vectors: tuple[Tensor, ...]


def teach_file(pipeline: Any, path: str | Path, word: str | None) -> list[str]:
    """Teach a pipeline the words of a file, in place.

    Args:
        pipeline: The diffusers pipeline.
        path: A file, or a folder that diffusers wrote.
        word: What the word is to be; None: what the file says, or else the file's name.

    Returns:
        What was taught, a clause for each word.

    Raises:
        UserError: It cannot be read, is for another model, or the word is taken.
    """
    file = find_file(path, ("learned_embeds",), WHAT, FIELD)
    encoders = _require_encoders(pipeline)
    words = _read_words(file, word)
    for each in words:
        _check(pipeline, file, each, encoders)
    for each in words:
        _teach(pipeline, each, encoders)
    return [f"{each.word} ({_count(each)})" for each in words]


def _require_encoders(pipeline: Any) -> tuple[Any, ...]:
    """The text encoders of a pipeline. Raises UserError if they are not CLIPs alone."""
    kind, encoders = type(pipeline).__name__, text_encoders(pipeline)
    cure = "omit it, or choose a Stable Diffusion 1.x, 2.x or XL"
    if not encoders:
        raise UserError(f"a {kind} reads no text, and takes no {WHAT[2:]}", cure, FIELD)
    kinds = [type(encoder).__name__ for encoder in encoders]
    others = [name for name in kinds if not name.startswith("CLIPText")]
    if others or not hasattr(pipeline, "load_textual_inversion"):
        why = f" (it reads prompts with a {others[0]})" if others else ""
        raise UserError(f"a {kind} does not take {WHAT}{why}", cure, FIELD)
    return encoders


def _read_words(file: Path, word: str | None) -> list[_Word]:
    """The words of a file of any known format."""
    found = open_box(read_tensors(file, WHAT, FIELD))
    named, tensors = _name_tensors(file, found)
    require_finite(file, list(tensors.values()), FIELD)
    if tensors.keys() <= set(ENCODERS):
        vectors = tuple(_as_rows(file, tensors[name]) for name in ENCODERS if name in tensors)
        if len(vectors) < len(ENCODERS) or len({len(each) for each in vectors}) > 1:
            cause = f"{file} does not have as many vectors for {' as for '.join(ENCODERS)}"
            raise UserError(cause, "fetch it again", FIELD)
        return [_Word(word or file.stem, vectors)]
    words = {name: _as_rows(file, tensor) for name, tensor in tensors.items()}
    if word is not None and len(words) > 1:
        cause = f"{file} has {len(words)} words ({', '.join(list(words)[:3])})"
        raise UserError(cause, "omit the name before its file", FIELD)
    if len(words) == 1:
        (own,) = words
        own = named or own
        own = file.stem if own in NAMELESS else own
        if word is None and own != file.stem and not own.startswith("<"):
            warnings.warn(f"{file} calls its word {own!r}, not {file.stem!r}", stacklevel=2)
        return [_Word(word or own, tuple(words.values()))]
    return [_Word(name, (vectors,)) for name, vectors in words.items()]


def _name_tensors(file: Path, found: Any) -> tuple[str | None, dict[str, Tensor]]:
    """The word that a file names beside its tensors, and its tensors by their names."""
    if isinstance(found, Tensor):
        return None, {NAMELESS[0]: found}
    name = None
    if isinstance(found, Mapping) and "string_to_param" in found:  # the original's, and A1111's
        name, found = found.get("name"), open_box(found["string_to_param"])
        if isinstance(found, Mapping) and len(found) > 1:
            found = {"*": found["*"]} if "*" in found else found
    tensors = found if isinstance(found, Mapping) else {}
    if any("lora" in str(key) for key in tensors):
        raise UserError(f"{file} is a LoRA, not {WHAT}", "name it as a LoRA", FIELD)
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        few = ", ".join(map(str, list(tensors)[:3])) or type(found).__name__
        cause = f"{file} cannot be loaded as {WHAT}: it holds {few}"
        raise UserError(cause, f"name {WHAT}", FIELD)
    own = name if isinstance(name, str) and name.strip() and len(tensors) == 1 else None
    return own, {str(key): value for key, value in tensors.items()}


def _as_rows(file: Path, tensor: Tensor) -> Tensor:
    """A tensor as (n, D)."""
    rows = tensor[None] if tensor.dim() == 1 else tensor
    if rows.dim() != 2 or not len(rows) or not rows.is_floating_point():
        cause = f"{file} cannot be loaded as {WHAT}: it holds a tensor of {list(tensor.shape)}"
        raise UserError(cause, "a word is one vector or several", FIELD)
    return rows.detach()


def _check(pipeline: Any, file: Path, word: _Word, encoders: Sequence[Any]) -> None:
    """Raise UserError for a word that does not fit the pipeline."""
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in encoders]
    found = [rows.shape[1] for rows in word.vectors]
    own = "this model's one text encoder" if len(widths) == 1 else "this model's two text encoders"
    if len(found) < len(widths):
        cause = f"{file} is for one text encoder, of {found[0]} numbers, and this model has two"
        raise UserError(cause, "name one that was made for Stable Diffusion XL", FIELD)
    if len(found) > len(widths):
        cause = f"{file} is for Stable Diffusion XL's two text encoders, and this model has one"
        raise UserError(cause, "name one that was made for this model", FIELD)
    if found != widths:
        has, takes = (" and ".join(map(str, each)) for each in (found, widths))
        cause = f"{file} has vectors of {has} numbers, and {own} reads {takes}"
        cause = cause.replace("encoders reads", "encoders read")
        raise UserError(cause, "name one that was made for this model", FIELD)
    if re.search(r"[\s,()\[\]\\]", word.word) or not word.word:
        cause = f"{word.word!r} cannot be a word: it has spaces, commas or brackets"
        raise UserError(cause, f"name one, for example my-word={file.name}", FIELD)
    number = len(word.vectors[0])
    names = (*_name_tokens(word), f"{word.word}_{number}")
    for tokenizer in tokenizers(pipeline):
        taken = [name for name in names if is_known(tokenizer, name)]
        if taken:
            cause = f"{file} would teach {word.word!r}, but the model knows {taken[0]!r} already"
            raise UserError(cause, f"choose another word, as in my-word={file.name}", FIELD)


def _teach(pipeline: Any, word: _Word, encoders: Sequence[Any]) -> None:
    """Teach one word, in place: its tokens are named as in diffusers."""
    from transformers import AddedToken

    for tokenizer, encoder, rows in zip(tokenizers(pipeline), encoders, word.vectors, strict=True):
        # a plain word is not looked for within others; one in brackets stands wherever it does
        plain = word.word[0].isalnum() and word.word[-1].isalnum()
        names = _name_tokens(word)
        tokenizer.add_tokens([AddedToken(name, single_word=plain) for name in names])
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        weight = encoder.get_input_embeddings().weight
        with torch.no_grad():
            weight[tokenizer.convert_tokens_to_ids(names)] = rows.to(weight)


def _name_tokens(word: _Word) -> list[str]:
    """The tokens of a word: itself, and one more for each further vector."""
    return [word.word, *(f"{word.word}_{i}" for i in range(1, len(word.vectors[0])))]


def _count(word: _Word) -> str:
    number = len(word.vectors[0])
    return "1 vector" if number == 1 else f"{number} vectors"
