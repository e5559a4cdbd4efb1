"""Textual inversions (Gal et al. 2022) as files: new words, and the vectors that they read as.

A file for one CLIP names its tensor as the word. One for several text encoders, or for a T5, names
a tensor for each (clip_l, clip_g, t5xxl), and the word is the file's name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.errors import UserError
from chainrule.models.base import Text, cannot_learn
from chainrule.models.tensor_files import find_file, open_box, read_tensors, require_finite
from chainrule.models.tokens import check_vectors, is_known, text_encoders, tokenizers

FIELD = "embeddings"
WHAT = "a textual inversion"
ENCODERS = ("clip_l", "clip_g", "t5xxl")
"""A pipeline's first CLIP, its second, and its T5, as files of words for several call them."""
MADE_FOR = {
    ("clip_l", "clip_g"): "Stable Diffusion XL's two text encoders",
    ("clip_l", "clip_g", "t5xxl"): "Stable Diffusion 3's three text encoders",
    ("clip_l", "t5xxl"): "Flux's two text encoders",
    ("t5xxl",): "a T5",
}
WORD = "word"
"""What the metadata of a file for several text encoders call the word."""
NAMELESS = ("emb_params", "*")
"""Names of tensors that are no words."""


@dataclass(frozen=True)
class _Word:
    """A new word.

    Args:
        word: As it is typed in a prompt.
        vectors: For each text encoder its token embeddings (n, D).
        encoders: Which those are, as files call them; none: the file does not say.
    """

    word: str
    vectors: tuple[Tensor, ...]
    encoders: tuple[str, ...] = ()


def save_word(path: str | Path, word: str, vectors: Tensor, text: Text) -> None:
    """Write a word as a .safetensors file, for diffusers and others.

    For one CLIP (Stable Diffusion 1.x and 2.x) it is {word: (n, D)}: diffusers'
    `load_textual_inversion`, A1111 and ComfyUI read it. For two (XL) it is {clip_l, clip_g}: A1111
    and ComfyUI read it, and diffusers does when it is given each tensor with its tokenizer and its
    text encoder, as in its own documentation. For Stable Diffusion 3 it is {clip_l, clip_g, t5xxl},
    for Flux {clip_l, t5xxl}, for PixArt {t5xxl}: ComfyUI reads them. Flux's of diffusers takes each
    tensor as XL's does; those for the other two have no loader, so there the tokens word, word_1,
    ... are added to each tokenizer by hand and the tensors' rows to each text encoder (whose CLIPs'
    `eos_token_id` must be the tokenizer's, not the 2 of old configurations), and a prompt names all
    of the tokens. In A1111 and ComfyUI the word is the file's name. `chainrule.load(...,
    embeddings=)` reads all of them.

    Args:
        path: The file.
        word: As it is typed in a prompt.
        vectors: Its token embeddings (n, D), as `text.with_token` takes them.
        text: The text encoders that they are for.

    Raises:
        UserError: The vectors are not for these text encoders, or these learn no words.
    """
    from safetensors.torch import save_file

    names, widths = _name_encoders(text.networks), text.widths
    if not widths:
        raise cannot_learn()
    check_vectors(vectors, widths)
    parts = [part.detach().cpu().contiguous() for part in vectors.split(widths, dim=1)]
    if names == ENCODERS[:1]:
        save_file({word: parts[0]}, path)
    else:
        save_file(dict(zip(names, parts, strict=True)), path, metadata={WORD: word})


def _name_encoders(encoders: Sequence[Any]) -> tuple[str, ...]:
    """Text encoders as files call them."""
    clips = iter(ENCODERS[:2])
    kinds = [type(encoder).__name__ for encoder in encoders]
    return tuple(ENCODERS[2] if kind.startswith("T5") else next(clips, kind) for kind in kinds)


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
    words = [_fit(pipeline, file, each, encoders) for each in _read_words(file, word)]
    for each in words:
        _check(pipeline, file, each, encoders)
    for each in words:
        _teach(pipeline, each, encoders)
    return [f"{each.word} ({_count(each)})" for each in words]


def _require_encoders(pipeline: Any) -> tuple[Any, ...]:
    """The text encoders of a pipeline. Raises UserError if they are not CLIPs and T5s."""
    kind, encoders = type(pipeline).__name__, text_encoders(pipeline)
    cure = "omit it, or choose a model that reads prompts with a CLIP or a T5"
    if not encoders:
        raise UserError(f"a {kind} reads no text, and takes no {WHAT[2:]}", cure, FIELD)
    kinds = [type(encoder).__name__ for encoder in encoders]
    others = [name for name in kinds if not name.startswith(("CLIPText", "T5"))]
    if others:
        why = f"it reads prompts with a {others[0]}"
        raise UserError(f"a {kind} does not take {WHAT} ({why})", cure, FIELD)
    if len(tokenizers(pipeline)) != len(encoders):
        raise UserError(f"this {kind} was loaded without a tokenizer", "load it too", FIELD)
    return encoders


def _read_words(file: Path, word: str | None) -> list[_Word]:
    """The words of a file of any known format."""
    found = open_box(read_tensors(file, WHAT, FIELD))
    named, tensors = _name_tensors(file, found)
    require_finite(file, list(tensors.values()), FIELD)
    if tensors.keys() <= set(ENCODERS):
        encoders = tuple(name for name in ENCODERS if name in tensors)
        vectors = tuple(_as_rows(file, tensors[name]) for name in encoders)
        if len({len(each) for each in vectors}) > 1:
            cause = f"{file} does not have as many vectors for {' as for '.join(encoders)}"
            raise UserError(cause, "fetch it again", FIELD)
        return [_Word(word or _choose_name(file, _read_name(file)), vectors, encoders)]
    words = {name: _as_rows(file, tensor) for name, tensor in tensors.items()}
    if word is not None and len(words) > 1:
        cause = f"{file} has {len(words)} words ({', '.join(list(words)[:3])})"
        raise UserError(cause, "omit the name before its file", FIELD)
    if len(words) == 1:
        (own,) = words
        own = named or own
        chosen = word or _choose_name(file, None if own in NAMELESS else own)
        return [_Word(chosen, tuple(words.values()))]
    return [_Word(name, (vectors,)) for name, vectors in words.items()]


def _read_name(file: Path) -> str | None:
    """The word that a file's metadata name, as `save_word` writes them."""
    from safetensors import safe_open

    if file.suffix != ".safetensors":
        return None
    with safe_open(file, framework="pt") as opened:
        name = (opened.metadata() or {}).get(WORD)
    return name or None


def _choose_name(file: Path, own: str | None) -> str:
    """The word that a file says, with a warning where one would expect another; or its name."""
    if own is None:
        return file.stem
    if own != file.stem and not own.startswith("<"):
        warnings.warn(f"{file} calls its word {own!r}, not {file.stem!r}", stacklevel=2)
    return own


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


def _fit(pipeline: Any, file: Path, word: _Word, encoders: Sequence[Any]) -> _Word:
    """A word with vectors for a pipeline's encoders, in turn. Raises UserError if it has others."""
    names, cure = _name_encoders(encoders), "name one that was made for this model"
    count = {1: "one", 2: "two", 3: "three"}[len(names)]
    if not word.encoders and len(names) > 1:
        width = word.vectors[0].shape[1]
        cause = f"{file} is for one text encoder, of {width} numbers, and this model has {count}"
        raise UserError(cause, cure, FIELD)
    vectors = dict(zip(word.encoders or names, word.vectors, strict=True))
    others = vectors.keys() - set(names)
    if hasattr(pipeline, "text_encoder_3"):  # whose T5 may be left out
        others -= {ENCODERS[2]}
    if others:
        made = MADE_FOR.get(word.encoders, f"the text encoder {word.encoders[0]}")
        cause = f"{file} is for {made}, and this model has {' and '.join(names)}"
        raise UserError(cause, cure, FIELD)
    missing = [name for name in names if name not in vectors]
    if missing:
        cause = f"{file} has no vectors for {missing[0]}, which is one of this model's {count}"
        raise UserError(f"{cause} text encoders", cure, FIELD)
    return replace(word, vectors=tuple(vectors[name] for name in names), encoders=names)


def _check(pipeline: Any, file: Path, word: _Word, encoders: Sequence[Any]) -> None:
    """Raise UserError for a word that does not fit the pipeline."""
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in encoders]
    found = [rows.shape[1] for rows in word.vectors]
    if found != widths:
        has, takes = (" and ".join(map(str, each)) for each in (found, widths))
        own = {1: "one text encoder reads", 2: "two text encoders read"}.get(len(widths))
        cause = f"{file} has vectors of {has} numbers, and this model's"
        cause = f"{cause} {own or 'three text encoders read'} {takes}"
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
        rows_there = encoder.get_input_embeddings().weight.shape[0]  # a T5's has more than tokens
        encoder.resize_token_embeddings(max(len(tokenizer), rows_there), mean_resizing=False)
        weight = encoder.get_input_embeddings().weight
        with torch.no_grad():
            weight[tokenizer.convert_tokens_to_ids(names)] = rows.to(weight)


def _name_tokens(word: _Word) -> list[str]:
    """The tokens of a word: itself, and one more for each further vector."""
    return [word.word, *(f"{word.word}_{i}" for i in range(1, len(word.vectors[0])))]


def _count(word: _Word) -> str:
    number = len(word.vectors[0])
    return "1 vector" if number == 1 else f"{number} vectors"
