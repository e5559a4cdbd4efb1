"""A word learnt from a pair of pictures. What a word says is tested in `models/test_tokens.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import chainrule
from chainrule import UserError
from chainrule.images import from_pil
from chainrule.methods import Adam, Effect, Task
from chainrule.scenes.base import Scene, Thing, render
from tiny import family, load_once, save_family

PROMPT = "a red square on a white background"


def square() -> Tensor:
    return from_pil([render(Scene((Thing("square", "red", 32, 32, 20, 5.0),), "white"))])[0]


def task(*pictures: Tensor, seeds: tuple[int, ...] = (0,)) -> Task:
    model = load_once()
    return Task(model, model.denoiser(PROMPT), seeds, prompts=(PROMPT,), pictures=pictures)


def test_a_pair_teaches_a_colour() -> None:
    """On the bundled model: the noise of a red square, told the word, becomes the square in blue."""
    from chainrule.scenes.judge import read

    before = square()
    method = Effect(iterations=25, steps=6, optimiser=Adam(rate=0.03))
    pair = method.prepare(task(before, before.flip(0)))
    *_, last = method.run(pair)
    assert last.losses[-1] < 0.25 * last.losses[0]
    with torch.no_grad():
        noise = pair.model.noise(range(4))
        images = method.draw(pair, last.best["vectors"], f"{PROMPT} {method.word}", noise)
    assert sum(read(image).things[0].colour == "blue" for image in images) >= 3


def test_what_is_learnt_is_shown_and_written_as_diffusers_reads_it(tmp_path: Path) -> None:
    """In a pipeline of diffusers the word says what it says here."""
    model, pipeline = load_once("Stable Diffusion 1.x"), family("Stable Diffusion 1.x")
    pictures = tuple(
        torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(2)
    )
    asked = Task(model, model.denoiser(PROMPT), (0, 1), prompts=(PROMPT,), pictures=pictures)
    method = Effect(iterations=1, steps=2, vectors=2, other=("a blue circle",))
    pair = method.prepare(asked)
    *_, last = method.run(pair)
    sheet = method.result(pair, last)
    assert list(sheet.columns) == ["the pair", "its noise", "seed 0", "seed 1"]
    assert {len(column) for column in sheet.columns.values()} == {
        4
    }  # two prompts, without and with the word
    assert torch.equal(sheet.columns["the pair"][:2], torch.stack(pair.pictures))
    assert not torch.equal(*sheet.columns["its noise"][:2])
    for name, write in method.artefacts(pair, last).items():
        write(tmp_path / name)
    pipeline.load_textual_inversion(tmp_path / "embedding.safetensors")
    said = model.text.with_token(method.word, last.best["vectors"])([f"{PROMPT} {method.word}"])[0]
    theirs = pipeline.maybe_convert_prompt(f"{PROMPT} {method.word}", pipeline.tokenizer)
    ids = pipeline.tokenizer(
        theirs, padding="max_length", max_length=24, return_tensors="pt"
    ).input_ids
    torch.testing.assert_close(pipeline.text_encoder(ids)[0], said)


def test_a_saved_word_is_known_to_a_model_that_is_loaded_with_it(tmp_path: Path) -> None:
    folder = save_family("Stable Diffusion 1.x", tmp_path / "pipeline")
    model = chainrule.load(folder)
    vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    asked = Task(model, model.denoiser(PROMPT), (0,), prompts=(PROMPT,))
    method = Effect(word="<x>")
    state = method.begin(asked)
    state = replace(state, values={"vectors": vectors})
    method.artefacts(asked, state)["embedding.safetensors"](tmp_path / "word.safetensors")
    taught = chainrule.load(folder, embeddings=[tmp_path / "word.safetensors"])
    said = model.text.with_token("<x>", vectors)([f"{PROMPT} <x>"])[0]
    torch.testing.assert_close(taught.text([f"{PROMPT} <x>"])[0], said)


def test_it_is_learnt_from_two_pictures_of_one_scene() -> None:
    before = square()
    with pytest.raises(UserError, match="learnt from two pictures, not 1"):
        Effect().prepare(task(before))
    with pytest.raises(UserError, match="other proportions than the one before"):
        Effect().prepare(task(before, torch.rand(3, 64, 128)))


def test_prompts_that_are_too_long_with_the_word_are_refused_before_anything_is_done() -> None:
    before = square()
    with pytest.raises(UserError, match="tokens and this model reads"):
        Effect(other=("red " * 21,)).prepare(task(before, before))
    with pytest.raises(UserError, match="is not a new word"):
        Effect(word="red").prepare(task(before, before))
