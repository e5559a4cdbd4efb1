"""Prompts of any length and kind: chunks, what is no prompt, and words that nobody knows."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import chainrule
from chainrule import UserError
from chainrule.bundled import SCENES
from chainrule.methods import METHODS
from chainrule.methods.base import Photo, Task
from chainrule.models import Model
from chainrule.scenes.base import sample_scene
from tiny import FAMILIES, family, load_once

ROOM = 75
ONE, TWO = "Stable Diffusion 1.x", "Stable Diffusion XL"
WORDS = ("a", "red", "circle", "on", "blue", "square")


def real_length(name: str):
    """A pipeline whose CLIPs read 77 tokens, as public ones do."""
    pipeline = family(name)
    for suffix in ("", "_2"):
        encoder = getattr(pipeline, f"text_encoder{suffix}", None)
        if encoder is not None:
            getattr(pipeline, f"tokenizer{suffix}").model_max_length = ROOM + 2
            encoder.config.max_position_embeddings = ROOM + 2
            torch.manual_seed(len(suffix))
            longer = type(encoder)(encoder.config).eval()
            setattr(pipeline, f"text_encoder{suffix}", longer)
    return pipeline


@pytest.fixture(scope="module")
def pipelines() -> dict:
    return {name: real_length(name) for name in (ONE, TWO)}


@pytest.fixture(scope="module")
def models(pipelines) -> dict[str, Model]:
    return {name: chainrule.load(each, size=(16, 16)) for name, each in pipelines.items()}


def by_hand(pipeline, prompts: list[str]) -> tuple[Tensor, ...]:
    """Each chunk of 75 tokens read alone, one by one, and joined; pooled: that of the first."""
    several = hasattr(pipeline, "tokenizer_2")
    widths, pooled = [], []
    for suffix in ("", "_2") if several else ("",):
        tokenizer = getattr(pipeline, f"tokenizer{suffix}")
        encoder = getattr(pipeline, f"text_encoder{suffix}")
        read = [tokenizer(each, add_special_tokens=False).input_ids for each in prompts]
        count = max(1, *(-(-len(ids) // ROOM) for ids in read))
        rows = []
        for ids in read:
            parts = []
            for i in range(count):
                words = ids[i * ROOM : (i + 1) * ROOM]
                padding = [tokenizer.pad_token_id] * (ROOM - len(words))
                chunk = [tokenizer.bos_token_id, *words, tokenizer.eos_token_id, *padding]
                out = encoder(torch.tensor([chunk]), output_hidden_states=True)
                parts.append(out.hidden_states[-2] if several else out.last_hidden_state)
                if i == 0 and suffix:
                    pooled.append(out.text_embeds)
            rows.append(torch.cat(parts, dim=1))
        widths.append(torch.cat(rows))
    text = torch.cat(widths, dim=-1)
    return (text, torch.cat(pooled)) if several else (text,)


def words(count: int) -> str:
    return " ".join(random.Random(count).choices(WORDS, k=count))


@pytest.mark.parametrize("name", [ONE, TWO])
@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(1, 240), min_size=1, max_size=3))
def test_a_prompt_of_any_length_is_read_in_chunks(pipelines, models, name, counts) -> None:
    prompts = [words(count) for count in counts]
    with torch.no_grad():
        found, expected = models[name].text(prompts), by_hand(pipelines[name], prompts)
    assert found[0].shape[1] == 77 * -(-max(counts) // ROOM)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", [ONE, TWO])
@pytest.mark.parametrize("count", [1, 20, 75])
def test_up_to_75_tokens_it_is_what_diffusers_reads(pipelines, models, name, count) -> None:
    prompts = [words(count), "a red circle"]
    with torch.no_grad():
        found = models[name].text(prompts)
        theirs = pipelines[name].encode_prompt(
            prompt=prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    assert torch.equal(found[0], theirs[0])
    if len(found) > 1:
        assert torch.equal(found[1], theirs[2])


@pytest.mark.parametrize("name", [ONE, TWO])
@pytest.mark.parametrize(
    ("prompt", "negative"), [(200, 1), (1, 200), (80, 200), (200, 0), (0, 200)]
)
def test_both_of_a_guidance_pair_are_as_long(pipelines, models, name, prompt, negative) -> None:
    model, told, other = models[name], words(prompt), words(negative)
    x, scale = model.noise([0, 1]), 3.0
    with torch.no_grad():
        found = model.denoiser(told, negative_prompt=other, guidance_scale=scale)(x, 500.0)
        # of a prompt that is there, the missing chunks are those of nothing
        given = [text for text in (told, other) if text] + ["a " * 225]
        rows = by_hand(pipelines[name], given)
        most = 77 * max(1, -(-max(prompt, negative) // ROOM))
        each = {text: tuple(part[i][None] for part in rows) for i, text in enumerate(given)}
        zeros = tuple(torch.zeros_like(part[:1]) for part in rows)
        nothing = zeros if name == TWO else tuple(by_hand(pipelines[name], ["", "a " * 225]))
        both = [
            (text[:1, :most], *rest)
            for text, *rest in (each.get(told, nothing), each.get(other, nothing))
        ]
        outs = [
            model.denoiser(tuple(part[:1] for part in one), guidance_scale=1.0)(x, 500.0)
            for one in both
        ]
    expected = outs[1].eps + scale * (outs[0].eps - outs[1].eps)
    torch.testing.assert_close(found.eps, expected, rtol=1e-3, atol=1e-4)


def test_each_place_of_all_chunks_has_its_string(models) -> None:
    text, prompt = models[ONE].text, words(100)
    tokens = text.tokens(prompt)
    assert len(tokens) == text([prompt])[0].shape[1] == 154
    said = [token for token in tokens if not token.startswith("<|")]
    assert said == prompt.split()


def test_a_word_of_several_vectors_is_not_divided(models) -> None:
    text = models[ONE].text.with_token("<x>", torch.zeros(3, 16))
    tokens = text.tokens(words(73) + " <x> red")
    assert tokens[77 + 1 : 77 + 5] == ["<x>", "<x>_1", "<x>_2", "red"]
    assert tokens.count("<x>") == 1
    many = models[ONE].text.with_token("<x>", torch.zeros(80, 16))  # it has to be
    assert sum(token.startswith("<x>") for token in many.tokens("a <x>")) == 80


def test_the_gradient_of_a_word_reaches_it_in_the_second_chunk(models) -> None:
    vectors = torch.zeros(1, 16, requires_grad=True)
    text = models[ONE].text.with_token("<x>", vectors)
    (conditioning,) = text([words(90) + " <x>"])
    (gradient,) = torch.autograd.grad(conditioning[:, 77:].square().sum(), vectors)
    assert gradient.any()
    assert not torch.autograd.grad(text([words(90) + " <x>"])[0][:, :77].sum(), vectors)[0].any()


@pytest.mark.parametrize("blend", [(), ("red",)])
def test_prompt_to_prompt_takes_chunks(models, blend) -> None:
    source = words(90)
    target = source.replace("circle", "square")
    assert edit(models[ONE], source, target, blend).shape == (1, 3, 16, 16)
    with pytest.raises(UserError, match="fill more chunks of 75 tokens than others"):
        edit(models[ONE], source, "a red square", blend)


def edit(model: Model, source: str, target: str, blend: tuple[str, ...]) -> Tensor:
    x_T = model.noise([0])
    photo = Photo(model.decode(x_T), model.denoiser(source), (16, 16), x_T=x_T, prompts=(source,))
    task = Task(model, model.denoiser(target), (0,), prompts=(target,), photo=photo)
    with torch.no_grad():
        images: Tensor = METHODS["prompt-to-prompt"](steps=2, blend=blend)(task).images
    return images


# --- what is no prompt --------------------------------------------------------------------------

READERS = [name for name in FAMILIES if not name.startswith(("DiT", "Pixels"))]
NONE = {
    "nothing": [],
    "no text": None,
    "a number": 5,
    "a number among texts": ["a", 3],
    "no text among them": [None],
    "NUL": "a\0b",
    "half a letter": "a \ud800",
    "a megabyte": "a " * 500_000,
    "a weight": "a (red:1.4) circle",
    "a weight within a weight": "a ((red) :1.4) (blue:.5)",
    "a negative weight": "(red: -0.5)",
    "a LoRA": "a <lora:thing:0.8>",
    "a chunk": "a red BREAK circle",
    "a schedule": "a [red:blue:0.5] circle",
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", NONE)
def test_what_is_no_prompt_is_refused(name: str, kind: str) -> None:
    model = load_once(name)
    with pytest.raises(UserError) as refusal:
        model.denoiser(NONE[kind])
    assert refusal.value.field == "prompt"
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize("name", ["DiT (classes)", "Pixels, told nothing", "Pixels, told a class"])
@pytest.mark.parametrize("kind", ["nothing", "no text", "a number", "no text among them"])
def test_where_no_text_is_read_neither(name: str, kind: str) -> None:
    with pytest.raises(UserError):
        load_once(name).denoiser(NONE[kind])


@pytest.mark.parametrize("prompt", ["a (red) circle", "((red)) circle", "a [red] circle"])
def test_brackets_are_said_to_be_words(models, prompt: str) -> None:
    with pytest.warns(UserWarning, match="brackets are words here, not weights"):
        models[ONE].text([prompt])


@pytest.mark.parametrize(
    "prompt", ["at 10:30, a red circle", "a red circle :)", "1) red 2) blue", "breaks", "<red>: a"]
)
def test_what_is_plain_text_is_not_taken_for_syntax(models, prompt: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models[ONE].text([prompt])


# --- words that nobody knows --------------------------------------------------------------------


def said_unknown(model: Model, prompt: str) -> str | None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.text([prompt])
    said = [str(each.message) for each in caught]
    assert len(said) <= 1
    return said[0] if said else None


def test_the_bundled_model_says_which_words_it_does_not_know() -> None:
    said = said_unknown(chainrule.load(), "A Red dog, in a cup: a 😀")
    assert said is not None
    assert said.startswith("the model does not know the words: dog, in, cup, 😀; it knows red,")


def test_the_bundled_model_knows_what_its_captions_say() -> None:
    """All of them: each word is in one of a thousand captions."""
    scenes = [sample_scene(seed) for seed in range(1000)]
    said = {word for scene in scenes for word in scene.caption.split()}
    assert said == set(SCENES.words)
    model = chainrule.load()
    assert said_unknown(model, " ".join(sorted(said)[:20])) is None


def test_a_learnt_word_is_known() -> None:
    model = chainrule.load()
    text = model.text.with_token("<effect>", model.text.pad_embedding[None])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text(["a red circle <effect>"])


@pytest.mark.parametrize("name", ["PixArt-alpha", "Flux.1 dev", "Stable Diffusion 3"])
def test_what_a_tokenizer_has_no_token_for_is_said(name: str) -> None:
    """A T5's vocabulary has an end: here it has small letters only."""
    said = said_unknown(load_once(name), "a red 7 circle 😀")
    assert said == "the model does not know the words: 7, 😀"
    assert said_unknown(load_once(name), "a red circle") is None
