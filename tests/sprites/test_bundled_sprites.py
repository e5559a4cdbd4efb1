"""The weights of the world of sprites that come with the package."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTokenizer

import chainrule
from chainrule.bundled import SCENES, SPRITES
from chainrule.losses import load_classifier, load_clip, load_rater
from chainrule.models.noise_aware import load_noise_aware
from chainrule.sprites.artwork import STYLES
from chainrule.sprites.base import GROUNDS, HELD_OUT_KINDS, list_words
from chainrule.sprites.judge import load_judges, read_ground
from chainrule.sprites.things import KINDS

pytestmark = pytest.mark.skipif(
    not SPRITES.installed, reason="the weights of sprites are not installed"
)


def test_the_guide_knows_what_the_generator_saw_and_the_judges_know_all() -> None:
    guide = load_classifier("sprites")
    assert set(guide.labels) == set(KINDS) - HELD_OUT_KINDS
    judges = load_judges(SPRITES.folder)
    assert judges.things.labels == tuple(KINDS)
    assert judges.styles.labels == tuple(STYLES)
    assert load_noise_aware("penguin", world="sprites").network.labels == guide.labels


def test_every_word_of_letters_is_one_token_and_told() -> None:
    assert set(SPRITES.words) == set(list_words())
    tokenizer = CLIPTokenizer.from_pretrained(SPRITES.pipeline / "tokenizer")
    for word in filter(str.isalpha, SPRITES.words):
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word


def test_all_worlds_together_are_small() -> None:
    size = sum(
        file.stat().st_size
        for world in (SCENES, SPRITES)
        for file in world.folder.rglob("*")
        if file.is_file()
    )
    assert size < 60e6


def test_it_draws_on_the_ground_that_is_asked_for() -> None:
    model = chainrule.load("sprites")
    prompts = [f"an octopus in 3D on a {ground} background" for ground in GROUNDS]
    with torch.no_grad():
        x_0 = chainrule.sample(
            model.denoiser(prompts), model.noise(range(len(prompts))), model.schedule.times(10)
        )
        images = model.decode(x_0)
    assert images.shape == (len(GROUNDS), 3, 64, 64)
    right = sum(read_ground(image) == g for image, g in zip(images, GROUNDS, strict=True))
    assert right >= len(GROUNDS) - 1


def test_its_rater_and_its_clip_go_together() -> None:
    rater = load_rater("sprites")
    assert rater(torch.rand(2, 3, 64, 64)).shape == (2,)
    assert load_clip("sprites").embed_texts(["a bird"]).shape == (1, 96)
