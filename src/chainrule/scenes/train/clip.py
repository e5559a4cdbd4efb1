"""The tokenizer and the two CLIPs of a world: one to guide by, one to judge."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
)

from chainrule.scenes.base import (
    BACKGROUNDS,
    COLOURS,
    NAMED_SHAPES,
    RELATIONS,
    SIDE,
    SIZE_WORDS,
    Scene,
)
from chainrule.scenes.train.base import (
    Settings,
    augment,
    autocast,
    draw_halves,
    fit,
    pictures,
    reconstructions,
    save_vision,
)

BATCH = 128
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MAX_TOKENS = 24
TEMPERATURE, APART = 0.1, 0.5
"""Of telling pictures apart, and its weight beside the captions."""


def list_words() -> list[str]:
    """All words of the shapes' captions, and a few more."""
    phrases = [
        *NAMED_SHAPES,
        *COLOURS,
        *BACKGROUNDS,
        *RELATIONS,
        *SIZE_WORDS,
        "a an on and the with shape background of",
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})


def new_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """A byte-level BPE: each of the words is one token, anything else its bytes."""
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=0, end_of_word_suffix="</w>", show_progress=False
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in _merges(bpe)]
    symbols = sorted({*_byte_symbols(), *("".join(pair) for pair in merges)})
    vocabulary = {
        symbol: i for i, symbol in enumerate([*symbols, "<|startoftext|>", "<|endoftext|>"])
    }
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _merges(bpe: Tokenizer) -> list[list[str]]:
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def _byte_symbols() -> set[str]:
    """The 256 characters that stand for bytes in a byte-level BPE, inside a word and at its end."""
    alphabet = set(ByteLevel.alphabet()) | set(string.ascii_lowercase)
    return alphabet | {symbol + "</w>" for symbol in alphabet}


def read_captions(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """The tokens (N, 24) of captions."""
    padded = tokenizer(
        list(captions), padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
    )
    tokens: Tensor = padded.input_ids
    return tokens


def new(
    tokenizer: CLIPTokenizer, vision: dict[str, int], text_layers: int, width: int, seed: int
) -> CLIPModel:
    """An untrained CLIP of 64x64 pixels.

    Args:
        tokenizer: Whose tokens it reads.
        vision: The settings of its image half, in transformers' names.
        text_layers: How many layers its text half has.
        width: How wide they are.
        seed: Of its weights.
    """
    torch.manual_seed(seed)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": 96,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": SIDE, "num_attention_heads": 4, "projection_dim": 96, **vision}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def confusions(scene: Scene) -> list[str]:
    """Captions that a bag of words would take for the scene's.

    The relation is turned round, or the shapes are changed over. Yuksekgonul et al., "When and why
    vision-language models behave like bags-of-words, and what to do about it", 2023: other
    pictures' captions alone never ask which thing is left of which. Without these the text encoder
    gave "left of" and "right of" the same embedding (cosine 0.999), and the generator placed things
    by chance.
    """
    if scene.relation is None:
        return []
    first, second = scene.things
    wrong = (
        replace(scene, relation=OPPOSITE[scene.relation]),
        replace(
            scene, things=(replace(first, shape=second.shape), replace(second, shape=first.shape))
        ),
    )
    return [
        other.caption for other in wrong if other.caption != scene.caption and not other.held_out
    ]


def view_loss(first: Tensor, second: Tensor) -> Tensor:
    """How hard it is to find each picture's other view among all: SimCLR's loss.

    Mu et al., "SLIP: Self-supervision meets language-image pre-training", 2021. Captions alone do
    not ask which of the things that have no word of their own a picture shows; the embedding of one
    could then not stand for it.

    Args:
        first: The embeddings of one view of each picture, unit vectors (B, D).
        second: Those of the other.
    """
    views = torch.cat([first, second])
    logits = (views @ views.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return functional.cross_entropy(
        logits, torch.arange(len(views), device=views.device).roll(len(first))
    )


def contrastive(
    settings: Settings,
    name: str,
    model: CLIPModel,
    steps: int,
    part: int,
    confusions: Callable[[Any], list[str]] = confusions,
    batch: int = BATCH,
) -> None:
    """Train a CLIP on pictures, their captions, and captions to be told from those.

    The pictures are renders and reconstructions. Each is seen twice, augmented in two ways, to be
    told from all others.

    Args:
        settings: Where and how.
        name: What the training is called in the work folder.
        model: The CLIP, which is changed.
        steps: How many batches.
        part: 0 or 1: which half of the data.
        confusions: The captions to be told from a scene's.
        batch: How many pictures are in a batch.
    """
    renders, rebuilt = pictures(settings), reconstructions(settings)
    tokenizer = CLIPTokenizer.from_pretrained(settings.weights / "pipeline" / "tokenizer")
    scenes = settings.list_scenes(len(rebuilt))
    distinct = sorted(
        {caption for scene in scenes for caption in (scene.caption, *confusions(scene))}
    )
    number = {caption: i for i, caption in enumerate(distinct)}
    which = torch.tensor([number[scene.caption] for scene in scenes])
    wrong = [[number[caption] for caption in confusions(scene)] for scene in scenes]
    tokens = read_captions(tokenizer, distinct)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng([step, part])
        index = np.sort(rng.integers(len(rebuilt) // 2, size=batch) * 2 + part)
        x, index = draw_halves(renders, rebuilt, index, settings.device)
        pictured = which[index]
        others = [caption for i in index for caption in wrong[i]]
        said = torch.cat([pictured, torch.tensor(others, dtype=torch.long)])
        with autocast(settings):
            views = torch.cat(
                [augment(x, generator, colour=0.3), augment(x, generator, colour=0.3)]
            )
            image = model.get_image_features(views)
            text = model.get_text_features(tokens[said].to(settings.device))
        image, text = (
            functional.normalize(_tensor(value).float(), dim=1) for value in (image, text)
        )
        first, second = image.chunk(2)
        logits = model.logit_scale.exp().clamp(max=100) * first @ text.T
        same = (pictured[:, None] == said[None, :]).float().to(settings.device)
        return 0.5 * _match_words(logits, same) + APART * view_loss(first, second)

    fit(name, model, loss, settings, steps=steps, rate=1e-3, ema=0.995, weight_decay=0.05)


def _match_words(logits: Tensor, same: Tensor) -> Tensor:
    """How far pictures and captions are from finding each other.

    Args:
        logits: (B, N), how alike each picture and caption are.
        same: (B, N), 1 where the caption is the picture's.
    """
    n = len(logits)
    to_text, to_image = (value / value.sum(dim=1, keepdim=True) for value in (same, same.T[:n]))
    by_picture = functional.cross_entropy(logits, to_text)
    return by_picture + functional.cross_entropy(logits.T[:n], to_image)


def _tensor(features: Any) -> Tensor:
    """transformers 5 may return an object around the features."""
    return features if isinstance(features, Tensor) else features.pooler_output


def train(settings: Settings) -> None:
    """The guiding CLIP, whose text half the pipeline begins with, and the tokenizer."""
    tokenizer = new_tokenizer(list_words())
    tokenizer.save_pretrained(settings.weights / "pipeline" / "tokenizer")
    vision = {"patch_size": 8, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4}
    model = new(tokenizer, vision, text_layers=3, width=128, seed=1).to(settings.device)
    contrastive(settings, "clip", model, steps=2000, part=0)
    save_vision(model, settings.weights / "clip")
    tokenizer.save_pretrained(settings.weights / "clip")


def train_judge(settings: Settings) -> None:
    """The judging CLIP: other patches, width, depth, seed and half of the data.

    No guidance ever touches it.
    """
    tokenizer = CLIPTokenizer.from_pretrained(settings.weights / "pipeline" / "tokenizer")
    vision = {"patch_size": 16, "hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 3}
    model = new(tokenizer, vision, text_layers=2, width=96, seed=101).to(settings.device)
    contrastive(settings, "judge-clip", model, steps=1000, part=1)
    save_vision(model, settings.weights / "judge_clip")
    tokenizer.save_pretrained(settings.weights / "judge_clip")
