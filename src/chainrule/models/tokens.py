"""Prompts as tokens: how many there are, how they read, new ones, and classes by name.

A CLIP reads 77 tokens: a mark at each end and 75 between. A longer prompt is read in chunks of 75,
each alone between marks of its own, and their embeddings are joined along the sequence, as the
public programs for Stable Diffusion do. The negative prompt gets as many chunks, the missing ones
of nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.bundled import warn_words
from chainrule.errors import UserError
from chainrule.models.frozen import copy_frozen
from chainrule.models.prompts import check_prompts

LONGEST = 10_000
"""More tokens than any CLIP reads."""
START = "\u2581"
"""What a T5 marks the start of a word with."""
SUFFIXES = ("", "_2", "_3")
"""Of the first to third text encoder of a pipeline, and of its tokenizer."""
CLIP_TOKENS = 77
"""What the public CLIPs read. The networks of shorter ones have seen one chunk only."""


def text_encoders(pipeline: Any) -> tuple[nn.Module, ...]:
    """The text encoders of a pipeline, those that it has of its first to third."""
    parts = [getattr(pipeline, f"text_encoder{suffix}", None) for suffix in SUFFIXES]
    return tuple(part for part in parts if isinstance(part, nn.Module))


def tokenizers(pipeline: Any) -> tuple[Any, ...]:
    """The tokenizers of a pipeline, those that it has of its first to third."""
    parts = [getattr(pipeline, f"tokenizer{suffix}", None) for suffix in SUFFIXES]
    return tuple(part for part in parts if part is not None)


def embeddings_of(pipeline: Any) -> tuple[tuple[Any, Any], ...]:
    """The tokenizer and the token embeddings of each text encoder that a pipeline has."""
    pairs = [
        (getattr(pipeline, f"tokenizer{suffix}", None), getattr(pipeline, f"text_encoder{suffix}"))
        for suffix in SUFFIXES
        if isinstance(getattr(pipeline, f"text_encoder{suffix}", None), nn.Module)
    ]
    return tuple((each, encoder.get_input_embeddings()) for each, encoder in pairs if each)


def taught_words(pipeline: Any) -> tuple[str, ...]:
    """The words that a pipeline was taught (textual inversions), as one types them."""
    found: dict[str, None] = {}
    for tokenizer in tokenizers(pipeline):
        added = getattr(tokenizer, "added_tokens_encoder", {})
        special = set(tokenizer.all_special_tokens)
        further = {f"{word}_{i}" for word in added for i in range(1, len(added))}
        found |= dict.fromkeys(word for word in added if word not in special | further)
    return tuple(word for word in found if not word.startswith("<extra_id_"))


def is_known(tokenizer: Any, word: str) -> bool:
    """Whether a tokenizer has a word as one token, alone or as a part of others."""
    small = word.lower()
    added = {token.lower() for token in tokenizer.added_tokens_encoder}
    known = tokenizer.get_vocab()
    forms = (word, small, f"{small}</w>", f"{START}{word}", f"{START}{small}")
    return small in added or any(each in known for each in forms)


def read_groups(tokenizer: Any, prompt: str) -> list[list[int]]:
    """The tokens of a prompt, without marks: of a taught word all of its own, of another one."""
    added = tokenizer.added_tokens_encoder
    words = {number: word for word, number in added.items()}
    groups, prompt = [], _spell(tokenizer, prompt)
    for number in tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids:
        group, word = [number], words.get(number)
        while word is not None and f"{word}_{len(group)}" in added:
            group.append(added[f"{word}_{len(group)}"])
        groups.append(group)
    return groups


def _spell(tokenizer: Any, prompt: str) -> str:
    """A prompt with its taught words as they were taught: a T5 tells capital letters apart."""
    special = set(tokenizer.all_special_tokens)
    taught = {word.lower(): word for word in tokenizer.added_tokens_encoder if word not in special}
    if not taught:
        return prompt
    patterns = [
        # as the tokenizers look for them: a plain word is not found within others
        r"(?<!\w)" * word[0].isalnum() + re.escape(word) + r"(?!\w)" * word[-1].isalnum()
        for word in sorted(taught, key=len, reverse=True)
    ]
    found = re.compile("|".join(patterns), re.IGNORECASE)
    return found.sub(lambda match: taught.get(match[0].lower(), match[0]), prompt)


def read_ids(tokenizer: Any, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Prompts as `length` tokens each, padded; what is longer is cut before its end mark.

    Args:
        tokenizer: A CLIP's or a T5's.
        prompts: B prompts.
        length: How many tokens are read, with the marks.

    Returns:
        The token numbers (B, length), and which are not padding (B, length), 1 or 0.
    """
    *start, end = tokenizer("").input_ids
    rows = []
    for prompt in prompts:
        numbers = [number for group in read_groups(tokenizer, prompt) for number in group]
        rows.append([*start, *numbers[: length - len(start) - 1], end])
    padded = [row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]
    there = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return torch.tensor(padded), torch.tensor(there)


def check_length(
    pipeline: Any, tokenizer: Any, prompts: Sequence[str], limit: int | None = None
) -> None:
    """Refuse prompts of more tokens than the text encoder reads, and what are no prompts.

    Args:
        pipeline: The diffusers pipeline.
        tokenizer: The one of its tokenizers that counts; None if it was loaded without.
        prompts: The prompts.
        limit: How many tokens are read; None is the tokenizer's own limit.

    Raises:
        UserError: A prompt is too long, or is none.
    """
    if tokenizer is None:
        raise UserError(
            "this pipeline was loaded without its text encoder",
            "give the conditioning instead of a prompt",
            "prompt",
        )
    check_prompts(prompts)
    limit = tokenizer.model_max_length if limit is None else limit
    special = len(tokenizer("").input_ids)
    for prompt in prompts:
        groups = read_groups(tokenizer, prompt)
        count = sum(map(len, groups))
        if count > limit - special:
            raise UserError(
                f"the prompt has {count} tokens and this model reads {limit - special}",
                f"shorten it ({prompt[:60]!r}...)",
                "prompt",
            )
        _warn_unknown(tokenizer, prompt, groups)


def _warn_unknown(tokenizer: Any, prompt: str, groups: Sequence[Sequence[int]]) -> None:
    """Warn of what a tokenizer has no token for at all."""
    none = tokenizer.unk_token_id
    if none is None or none == tokenizer.eos_token_id or [none] not in groups:
        return
    words = [word for word in prompt.split() if [none] in read_groups(tokenizer, word)]
    warn_words(words or [prompt[:60]])


def token_strings(
    pipeline: Any, tokenizer: Any, prompt: str, limit: int | None = None
) -> list[str]:
    """The tokens of a prompt, padded, without marks of where words end.

    Args:
        pipeline: The diffusers pipeline.
        tokenizer: The one of its tokenizers that is asked.
        prompt: The prompt.
        limit: How many tokens are read; None is the tokenizer's own limit.

    Returns:
        As many strings as tokens are read; of a CLIP, those of all chunks.

    Raises:
        UserError: The prompt is too long.
    """
    if limit is None:
        ids = chunk_ids(pipeline, (tokenizer,), [prompt])[0].flatten().tolist()
    else:
        check_length(pipeline, tokenizer, [prompt], limit)
        ids = read_ids(tokenizer, [prompt], limit)[0][0].tolist()
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return [token.removesuffix("</w>").strip(START) for token in tokens]


def chunk_ids(
    pipeline: Any, tokenizers: Sequence[Any], prompts: Sequence[str]
) -> tuple[Tensor, ...]:
    """Prompts as the chunks that a CLIP reads.

    A taught word of several vectors is not divided if it fits into a chunk.

    Args:
        pipeline: The diffusers pipeline.
        tokenizers: Those of its CLIPs.
        prompts: B prompts.

    Returns:
        For each tokenizer the token numbers (B, chunks, tokens), as many chunks for all.

    Raises:
        UserError: A prompt is none, or too long for a CLIP that reads no second chunk.
    """
    for tokenizer in tokenizers:
        if tokenizer is None or _length(tokenizer) < CLIP_TOKENS:
            check_length(pipeline, tokenizer, prompts)
    check_prompts(prompts)
    read = [
        [_split(tokenizer, read_groups(tokenizer, prompt)) for prompt in prompts]
        for tokenizer in tokenizers
    ]
    most = max(len(chunks) for each in read for chunks in each)
    return tuple(
        torch.tensor(
            [[_mark(tokenizer, chunk) for chunk in _fill(chunks, most)] for chunks in each]
        )
        for tokenizer, each in zip(tokenizers, read, strict=True)
    )


def _split(tokenizer: Any, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Tokens in chunks; at least one, which may be empty."""
    room = _length(tokenizer) - 2
    chunks: list[list[int]] = [[]]
    for group in groups:
        if len(group) <= room < len(chunks[-1]) + len(group):
            chunks.append([])
        for number in group:
            if len(chunks[-1]) == room:
                chunks.append([])
            chunks[-1].append(number)
    return chunks


def _fill(chunks: list[list[int]], count: int) -> list[list[int]]:
    """`count` chunks: the missing ones are empty."""
    return chunks + [[]] * (count - len(chunks))


def _mark(tokenizer: Any, chunk: Sequence[int]) -> list[int]:
    """A chunk between its marks, padded."""
    marked = [tokenizer.bos_token_id, *chunk, tokenizer.eos_token_id]
    return marked + [tokenizer.pad_token_id] * (_length(tokenizer) - len(marked))


def _length(tokenizer: Any) -> int:
    """How many tokens a CLIP reads; some tokenizers do not say."""
    length = int(tokenizer.model_max_length)
    return length if length < LONGEST else CLIP_TOKENS


def encode_chunks(encoder: Any, tokenizer: Any, ids: Tensor) -> Any:
    """What a CLIP makes of each chunk alone.

    Args:
        encoder: The text encoder.
        tokenizer: Its tokenizer.
        ids: The token numbers (B, chunks, tokens).

    Returns:
        transformers' output for a batch of B times chunks, with all hidden states.
    """
    flat, mask = ids.flatten(0, 1).to(encoder.device), None
    if getattr(encoder.config, "use_attention_mask", False):
        end = (flat == tokenizer.eos_token_id).int().argmax(dim=1, keepdim=True)
        mask = (torch.arange(flat.shape[1], device=flat.device) <= end).long()
    return encoder(flat, attention_mask=mask, output_hidden_states=True)


def join_chunks(text: Tensor, ids: Tensor) -> Tensor:
    """Embeddings of chunks (B chunks, tokens, D) as those of whole prompts (B, chunks tokens, D).

    Args:
        text: The embeddings.
        ids: The token numbers (B, chunks, tokens).
    """
    return text.unflatten(0, ids.shape[:2]).flatten(1, 2)


def lengthen(text: Tensor, tokens: int, nothing: Tensor) -> Tensor:
    """Embeddings (B, K, D) of prompts, with chunks of nothing after them.

    Args:
        text: The embeddings.
        tokens: How many there are to be, K and some chunks.
        nothing: The embeddings (1, L, D) of an empty chunk.
    """
    count, rest = divmod(tokens - text.shape[1], nothing.shape[1])
    if count <= 0 or rest:
        return text
    return torch.cat([text, nothing.to(text).repeat(len(text), count, 1)], dim=1)


def find_ends_by_name(pipeline: Any) -> None:
    """Let a pipeline's CLIPs, in place, find the end of a prompt where it is.

    What they pool lies there. Configurations of before 2023 take the greatest number for the end;
    a taught word's is greater.
    """
    for suffix in SUFFIXES:
        encoder = getattr(pipeline, f"text_encoder{suffix}", None)
        tokenizer = getattr(pipeline, f"tokenizer{suffix}", None)
        if encoder is None or tokenizer is None:
            continue
        for module in encoder.modules():
            if getattr(module, "eos_token_id", None) == 2:  # what those configurations say
                module.eos_token_id = tokenizer.eos_token_id


def word_widths(pipeline: Any) -> tuple[int, ...]:
    """The widths of the token embeddings of a pipeline's text encoders, in turn."""
    return tuple(int(each.embedding_dim) for _, each in embeddings_of(pipeline))


def embed_padding(pipeline: Any) -> Tensor:
    """The token embeddings (D,) of padding, those of all text encoders joined."""
    return _embed(pipeline, lambda tokenizer: [tokenizer.pad_token_id])


def embed_word(pipeline: Any, word: str) -> Tensor:
    """The token embeddings (D,) of a word that a pipeline knows, the mean where it is several.

    Args:
        pipeline: The diffusers pipeline.
        word: As one types it.

    Returns:
        Those of all text encoders joined, in turn.

    Raises:
        UserError: It is no word, or a tokenizer has no token for it.
    """
    check_prompts([word])

    def read(tokenizer: Any) -> list[int]:
        ids = [number for group in read_groups(tokenizer, word) for number in group]
        none = tokenizer.unk_token_id
        if not ids or (none != tokenizer.eos_token_id and none in ids):
            raise UserError(
                f"the model does not know the word {word!r:.60}", "name another", "word"
            )
        return ids

    return _embed(pipeline, read)


def _embed(pipeline: Any, read: Callable[[Any], list[int]]) -> Tensor:
    """The mean token embeddings (D,) of what is read of each tokenizer, joined."""
    parts = []
    for tokenizer, embeddings in embeddings_of(pipeline):
        device = next(embeddings.parameters()).device
        found = embeddings(torch.tensor(read(tokenizer), device=device))
        parts.append(found.detach().mean(dim=0))
    return torch.cat(parts)


def add_token(pipeline: Any, word: str, vectors: Tensor) -> Any:
    """A copy of a frozen pipeline whose text encoders know a new word.

    Its tokens are named as in diffusers' textual inversion: word, word_1, word_2 ... The vectors
    are read anew each time that a prompt is: who changes them in place changes the word.

    Args:
        pipeline: A frozen diffusers pipeline with CLIPs and T5s; it stays as it is.
        word: In angle brackets.
        vectors: Its n token embeddings (n, D), which get gradients. Those of all text encoders are
            joined, in turn.

    Raises:
        UserError: The word is not a new one, or the vectors are of other widths.
    """
    _check_new(pipeline, word, vectors)
    view, start = copy.copy(pipeline), 0
    for suffix in SUFFIXES:
        encoder = getattr(pipeline, f"text_encoder{suffix}", None)
        tokenizer = copy.deepcopy(getattr(pipeline, f"tokenizer{suffix}", None))
        if encoder is None or tokenizer is None:
            continue
        known = len(tokenizer)
        copied: Any = copy_frozen(encoder)
        tokenizer.add_tokens(_name_tokens(word, len(vectors)))
        embeddings = copied.get_input_embeddings()
        copied.set_input_embeddings(_Extended(embeddings, known, vectors, start))
        start += embeddings.embedding_dim
        setattr(view, f"tokenizer{suffix}", tokenizer)
        setattr(view, f"text_encoder{suffix}", copied)
    return view


def check_vectors(vectors: Tensor, widths: Sequence[int]) -> None:
    """Raise UserError unless vectors are (n, D), D the sum of some widths."""
    if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != sum(widths):
        parts = f" ({' + '.join(map(str, widths))})" if len(widths) > 1 else ""
        cause = f"vectors of shape {tuple(vectors.shape)} are not a word of this model"
        raise UserError(cause, f"give (n, {sum(widths)}){parts}", "vectors")


def _check_new(pipeline: Any, word: str, vectors: Tensor) -> None:
    """Raise UserError for a word that is not a new one, or vectors of other widths."""
    check_vectors(vectors, word_widths(pipeline))
    tokens = set(_name_tokens(word, len(vectors)))
    taken = any(tokens & set(tokenizer.get_vocab()) for tokenizer in tokenizers(pipeline))
    in_brackets = len(word) > 2 and word.startswith("<") and word.endswith(">")
    if taken or not in_brackets:
        raise UserError(
            f"{word!r} is not a new word",
            "choose one in angle brackets, for example <effect>",
            "word",
        )


def _name_tokens(word: str, count: int) -> list[str]:
    """The tokens of a word of `count` vectors."""
    return [word, *(f"{word}_{i}" for i in range(1, count))]


class _Extended(nn.Module):
    """Token embeddings, and those of the tokens after the first `known`.

    Args:
        embeddings: (tokens, d).
        known: How many tokens it knows.
        vectors: (n, D), those of the new tokens.
        start: Which of their columns is the first of the d that are read here.
    """

    def __init__(self, embeddings: nn.Module, known: int, vectors: Tensor, start: int) -> None:
        super().__init__()
        self.embeddings, self.known, self.start = embeddings, known, start
        self.embedding_dim = int(embeddings.embedding_dim)  # type: ignore[arg-type]
        self.vectors = (vectors,)  # not a parameter of the network: the caller's own

    def forward(self, ids: Tensor) -> Tensor:
        (vectors,), new = self.vectors, ids >= self.known
        found: Tensor = self.embeddings(ids.masked_fill(new, 0))
        # read here, not once: they may have been changed in place since
        own = vectors[:, self.start : self.start + self.embedding_dim].to(found)
        rows = own[(ids - self.known).clamp(0, len(own) - 1)]
        return torch.where(new[..., None], rows, found)


def class_number(prompt: str, labels: Mapping[str, int], count: int) -> int:
    """The class that a prompt names.

    >>> class_number("heart", {"heart": 3}, 5), class_number("4", {}, 5)
    (3, 4)

    Args:
        prompt: One of `labels`, or a number below `count`.
        labels: The classes that have a name, with their numbers.
        count: How many classes there are.

    Raises:
        UserError: There is no such class.
    """
    if prompt in labels:
        return labels[prompt]
    if prompt.isdecimal() and int(prompt) < count:
        return int(prompt)
    some = f" ({', '.join(list(labels)[:5])} ...)" if labels else ""
    raise UserError(
        f"there is no class {prompt!r}",
        f"name one{some} or its number, from 0 to {count - 1}",
        "prompt",
    )
