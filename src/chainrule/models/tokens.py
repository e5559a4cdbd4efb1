"""Prompts as tokens: how many there are, how they read, new ones, and classes by name.

A CLIP reads 77 tokens: a mark at each end and 75 between. A longer prompt is read in chunks of 75,
each alone between marks of its own, and their embeddings are joined along the sequence, as the
public programs for Stable Diffusion do. The negative prompt gets as many chunks, the missing ones
of nothing.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.errors import UserError
from chainrule.models.frozen import copy_frozen
from chainrule.models.prompts import check_prompts

LONGEST = 10_000
"""More tokens than any CLIP reads."""
CLIP_TOKENS = 77
"""What the public CLIPs read. The networks of shorter ones have seen one chunk only."""


def text_encoders(pipeline: Any) -> tuple[nn.Module, ...]:
    """The text encoders of a pipeline, those that it has of its first to third."""
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    parts = [getattr(pipeline, name, None) for name in names]
    return tuple(part for part in parts if isinstance(part, nn.Module))


def tokenizers(pipeline: Any) -> tuple[Any, ...]:
    """The tokenizers of a pipeline, those that it has of its first to third."""
    names = ("tokenizer", "tokenizer_2", "tokenizer_3")
    parts = [getattr(pipeline, name, None) for name in names]
    return tuple(part for part in parts if part is not None)


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
    return small in added or any(each in known for each in (word, small, f"{small}</w>"))


def read_groups(tokenizer: Any, prompt: str) -> list[list[int]]:
    """The tokens of a prompt, without marks: of a taught word all of its own, of another one."""
    added = tokenizer.added_tokens_encoder
    words = {number: word for word, number in added.items()}
    groups = []
    for number in tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids:
        group, word = [number], words.get(number)
        while word is not None and f"{word}_{len(group)}" in added:
            group.append(added[f"{word}_{len(group)}"])
        groups.append(group)
    return groups


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
    _warn_words(words or [prompt[:60]])


def warn_unknown_words(
    prompts: Sequence[str], known: Sequence[str], taught: Sequence[str] = ()
) -> None:
    """Warn of words that a model has never seen.

    Args:
        prompts: The prompts.
        known: All words that it has seen, lower case, those worth telling first.
        taught: Words that it was taught since.
    """
    for prompt in prompts:
        for word in sorted(taught, key=len, reverse=True):
            prompt = re.sub(re.escape(word), " ", prompt, flags=re.IGNORECASE)
        words = re.findall(r"[^\s.,;:!?'\"()-]+", prompt.lower())
        _warn_words([word for word in words if word not in known], known)


def _warn_words(words: Sequence[str], known: Sequence[str] = ()) -> None:
    if words:
        found = list(dict.fromkeys(word[:40] for word in words))
        unknown = ", ".join(found[:8]) + (" ..." if len(found) > 8 else "")
        rest = f"; it knows {', '.join(known)}" if known else ""
        warnings.warn(f"the model does not know the words: {unknown}{rest}", stacklevel=4)


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
        ids = tokenizer(prompt, padding="max_length", max_length=limit).input_ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return [token.removesuffix("</w>").strip("\u2581") for token in tokens]


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


def find_end_by_name(encoder: Any, tokenizer: Any) -> None:
    """Let a CLIP, in place, find the end of a prompt where it is.

    Configurations of before 2023 take the greatest number for the end; a taught word's is greater.
    """
    for module in encoder.modules():
        if getattr(module, "eos_token_id", None) == 2:  # what those configurations say
            module.eos_token_id = tokenizer.eos_token_id


def add_token(pipeline: Any, word: str, vectors: Tensor) -> Any:
    """A copy of a frozen pipeline whose CLIP knows a new word.

    Its tokens are named as in diffusers' textual inversion: word, word_1, word_2 ...

    Args:
        pipeline: A frozen diffusers pipeline with one CLIP; it stays as it is.
        word: In angle brackets.
        vectors: Its n token embeddings (n, D), which get gradients.

    Raises:
        UserError: The word is not a new one.
    """
    view = copy.copy(pipeline)
    view.tokenizer = copy.deepcopy(pipeline.tokenizer)
    view.text_encoder = copy_frozen(pipeline.text_encoder)
    known = len(view.tokenizer)
    tokens = [word, *(f"{word}_{i}" for i in range(1, len(vectors)))]
    taken = set(tokens) & set(view.tokenizer.get_vocab())
    in_brackets = len(word) > 2 and word.startswith("<") and word.endswith(">")
    if taken or not in_brackets:
        raise UserError(
            f"{word!r} is not a new word",
            "choose one in angle brackets, for example <effect>",
            "word",
        )
    view.tokenizer.add_tokens(tokens)
    embeddings = view.text_encoder.get_input_embeddings()
    view.text_encoder.set_input_embeddings(_Extended(embeddings, known, vectors))
    return view


class _Extended(nn.Module):
    """Token embeddings, and `vectors` (n, D) for the tokens after the first `known`."""

    def __init__(self, embeddings: nn.Module, known: int, vectors: Tensor) -> None:
        super().__init__()
        self.embeddings, self.known = embeddings, known
        self.vectors = (vectors,)  # not a parameter of the network: the caller's own

    def forward(self, ids: Tensor) -> Tensor:
        (vectors,), new = self.vectors, ids >= self.known
        found: Tensor = self.embeddings(ids.masked_fill(new, 0))
        own = vectors.to(found)[(ids - self.known).clamp(0, len(vectors) - 1)]
        return torch.where(new[..., None], own, found)


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
