"""A new word: what it says, its gradient, and that a pair teaches it."""

from __future__ import annotations

import pytest
import torch

import chainrule
from chainrule import Checkpoint, UserError, sample
from chainrule.methods import Effect, Pair, effect
from chainrule.optimise import Adam
from tiny import family

PROMPT = "a red square on a white background"


@pytest.fixture(scope="module")
def model() -> chainrule.Model:
    return chainrule.load(family("Stable Diffusion 1.x"))


def test_a_word_of_padding_says_nothing(model: chainrule.Model) -> None:
    text = model.text.taught("<x>", model.text.blank.expand(3, -1))
    (told,), (without,) = text([f"{PROMPT} <x>"]), model.text([PROMPT])
    torch.testing.assert_close(told, without)


def test_a_word_of_a_word_says_that(model: chainrule.Model) -> None:
    embeddings = model.text.pipeline.text_encoder.get_input_embeddings().weight
    ids = model.text.pipeline.tokenizer("blue", add_special_tokens=False).input_ids
    text = model.text.taught("<x>", embeddings[ids])
    assert torch.equal(text(["a <x> square"])[0], model.text(["a blue square"])[0])
    assert torch.equal(text(["a blue square"])[0], model.text(["a blue square"])[0])


def test_its_gradient_through_the_chain_is_that_of_finite_differences() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x").to(torch.float64))
    vectors = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x_T, times = model.noise([0]).double(), model.schedule.times(3)

    def loss(value: torch.Tensor) -> torch.Tensor:
        told = model.text.taught("<x>", value)([f"{PROMPT} <x>"])
        return sample(model.denoiser(told), x_T, times, gradient=Checkpoint()).square().sum()

    leaf = vectors.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    h = 1e-5
    with torch.no_grad():
        expected = (loss(vectors + h * direction) - loss(vectors - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-5, atol=1e-8)


def test_the_model_is_left_as_it_was(model: chainrule.Model) -> None:
    known = len(model.text.pipeline.tokenizer)
    model.text.taught("<x>", model.text.blank[None])
    assert len(model.text.pipeline.tokenizer) == known


@pytest.mark.parametrize("word", ["red", " ", "<>", "quar", "<|endoftext|>"])
def test_a_word_that_is_none_is_refused(model: chainrule.Model, word: str) -> None:
    """Without brackets it could be a part of other words, which would then be read otherwise."""
    with pytest.raises(UserError, match="is no new word: choose one in angle brackets, for example <effect>"):
        model.text.taught(word, model.text.blank[None])


def test_a_family_that_cannot_learn_words_is_refused() -> None:
    model = chainrule.load(family("Stable Diffusion 3"))
    with pytest.raises(UserError, match="cannot be taught a word"):
        model.text.taught("<x>", torch.zeros(1, 16))
    with pytest.raises(UserError, match="cannot be taught a word"):
        _ = model.text.blank


def test_a_pair_teaches_a_colour() -> None:
    """On the bundled model: the noise of a red square, told the word, becomes the square in blue."""
    from chainrule.pictures import from_pil
    from chainrule.scenes.base import Scene, Thing, render
    from chainrule.scenes.judge import read

    model = chainrule.load()
    before = from_pil([render(Scene((Thing("square", "red", 32, 32, 20, 5.0),), "white"))])
    pair = Pair(model, PROMPT, before, before.flip(1))
    settings = Effect(iterations=25, steps=6, optimiser=Adam(rate=0.03))
    *_, last = effect(pair, settings)
    assert last.losses[-1] < 0.25 * last.losses[0]
    denoiser = pair.denoiser(last.values["vectors"], f"{PROMPT} {pair.word}", 1.0)
    with torch.no_grad():
        images = model.decode(sample(denoiser, model.noise(range(4)), model.schedule.times(6)))
    assert sum(read(image).things[0].colour == "blue" for image in images) >= 3
