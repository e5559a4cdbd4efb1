"""Prompts as tokens, and new words: what they say, and their gradient."""

from __future__ import annotations

import pytest
import torch

import chainrule
from chainrule import Checkpoint, UserError, sample
from chainrule.bundled import warn_unknown_words
from chainrule.models import Model
from tiny import family

PROMPT = "a red square on a white background"


@pytest.fixture(scope="module")
def model() -> Model:
    return chainrule.load(family("Stable Diffusion 1.x"))


def test_a_prompt_has_a_string_for_each_place(model: Model) -> None:
    tokens = model.text.tokens("a red circle")
    assert len(tokens) == model.text([PROMPT])[0].shape[1]
    assert tokens[1:4] == ["a", "red", "circle"]


def test_a_known_word_with_a_hyphen_is_known(recwarn: pytest.WarningsRecorder) -> None:
    known = ("a", "yo-yo", "t-rex")
    warn_unknown_words(["a Yo-yo", "a t-rex, a yo-yo"], known)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="words: yo; it knows"):
        warn_unknown_words(["a yo"], known)


def test_a_word_of_padding_says_nothing(model: Model) -> None:
    text = model.text.with_token("<x>", model.text.pad_embedding.expand(3, -1))
    (told,), (without,) = text([f"{PROMPT} <x>"]), model.text([PROMPT])
    torch.testing.assert_close(told, without)


def test_a_word_of_a_word_says_that(model: Model) -> None:
    embeddings = model.text.pipeline.text_encoder.get_input_embeddings().weight
    ids = model.text.pipeline.tokenizer("blue", add_special_tokens=False).input_ids
    text = model.text.with_token("<x>", embeddings[ids])
    assert torch.equal(text(["a <x> square"])[0], model.text(["a blue square"])[0])
    assert torch.equal(text(["a blue square"])[0], model.text(["a blue square"])[0])


def test_its_gradient_through_the_chain_is_that_of_finite_differences() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x").to(torch.float64))
    vectors, direction = (
        torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    x_T, times = model.noise([0]).double(), model.schedule.times(3)

    def loss(value: torch.Tensor) -> torch.Tensor:
        conditioning = model.text.with_token("<x>", value)([f"{PROMPT} <x>"])
        denoiser = model.denoiser(conditioning)
        return sample(denoiser, x_T, times, gradient=Checkpoint()).square().sum()

    leaf = vectors.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    h = 1e-5
    with torch.no_grad():
        expected = (loss(vectors + h * direction) - loss(vectors - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-5, atol=1e-8)


def test_the_model_is_left_as_it_was(model: Model) -> None:
    known = len(model.text.pipeline.tokenizer)
    model.text.with_token("<x>", model.text.pad_embedding[None])
    assert len(model.text.pipeline.tokenizer) == known


@pytest.mark.parametrize("word", ["red", " ", "<>", "quar", "<|endoftext|>"])
def test_a_word_that_is_none_is_refused(model: Model, word: str) -> None:
    """Without brackets it could be a part of other words, which would then be read otherwise."""
    with pytest.raises(UserError, match="is not a new word: choose one in angle brackets"):
        model.text.with_token(word, model.text.pad_embedding[None])


def test_the_tokens_of_several_text_encoders_are_not_told() -> None:
    model = chainrule.load(family("Stable Diffusion 3"))
    with pytest.raises(UserError, match="are not sequences of tokens"):
        model.text.tokens("a red circle")
