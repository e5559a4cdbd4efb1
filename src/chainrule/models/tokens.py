"""Prompts as tokens: how many there are, how they read, new ones, and classes by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.errors import UserError
from chainrule.models.frozen import copy_frozen


def text_encoders(pipeline: Any) -> tuple[nn.Module, ...]:
    """The text encoders of a pipeline, those that it has of its first to third."""
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    parts = [getattr(pipeline, name, None) for name in names]
    return tuple(part for part in parts if isinstance(part, nn.Module))


def check_length(
    pipeline: Any, tokenizer: Any, prompts: Sequence[str], limit: int | None = None
) -> None:
    """Refuse prompts of more tokens than the text encoder reads.

    Args:
        pipeline: The diffusers pipeline.
        tokenizer: The one of its tokenizers that counts; None if it was loaded without.
        prompts: The prompts.
        limit: How many tokens are read; None is the tokenizer's own limit.

    Raises:
        UserError: A prompt is too long.
    """
    if tokenizer is None:
        raise UserError(
            "this pipeline was loaded without its text encoder",
            "give the conditioning instead of a prompt",
            "prompt",
        )
    limit = tokenizer.model_max_length if limit is None else limit
    special = len(tokenizer("").input_ids)
    for prompt in prompts:
        count = len(tokenizer(_spell_out(pipeline, tokenizer, prompt)).input_ids)
        if count > limit:
            raise UserError(
                f"the prompt has {count - special} tokens and this model reads {limit - special}",
                f"shorten it ({prompt[:60]!r}...)",
                "prompt",
            )


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
        As many strings as tokens are read.

    Raises:
        UserError: The prompt is too long.
    """
    check_length(pipeline, tokenizer, [prompt], limit)
    length = tokenizer.model_max_length if limit is None else limit
    spelled_out = _spell_out(pipeline, tokenizer, prompt)
    ids = tokenizer(spelled_out, padding="max_length", max_length=length).input_ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return [token.removesuffix("</w>").strip("\u2581") for token in tokens]


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


def _spell_out(pipeline: Any, tokenizer: Any, prompt: str) -> str:
    """`prompt` with all tokens of its textual inversions: a word may be several."""
    if not hasattr(pipeline, "maybe_convert_prompt"):
        return prompt
    spelled_out: str = pipeline.maybe_convert_prompt(prompt, tokenizer)
    return spelled_out
