"""The bundled world: exact, seeded, without words for hidden shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chainrule import UserError
from chainrule.images import from_pil
from chainrule.scenes.base import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_BELOW,
    HELD_OUT_PAIRS,
    HIDDEN_SHAPES,
    NAMED_SHAPES,
    SHAPES,
    SIZE_WORDS,
    render,
    sample_scene,
)

SCENES = [sample_scene(seed) for seed in range(300)]


def pixels(scenes) -> torch.Tensor:
    return from_pil([render(scene) for scene in scenes])


def test_a_scene_is_its_seed() -> None:
    again = [sample_scene(seed) for seed in range(300)]
    assert again == SCENES
    assert np.array_equal(np.asarray(render(SCENES[3])), np.asarray(render(again[3])))
    assert len(set(SCENES)) == 300


def test_captions_say_what_is_there_and_hidden_shapes_have_no_word() -> None:
    for scene in SCENES:
        caption = f"{scene.caption} "
        assert caption.endswith(f"on a {scene.background} background ")
        assert not any(f" {shape} " in caption for shape in HIDDEN_SHAPES)
        for thing in scene.things:
            word = thing.shape if thing.shape in NAMED_SHAPES else "shape"
            assert f"{thing.colour} {word} " in caption
        if scene.size_word:
            low, high = SIZE_WORDS[scene.size_word]
            assert low <= scene.things[0].radius <= high
        assert "stripe" not in caption
        assert "gradient" not in caption


def test_held_out_combinations_are_never_drawn_for_training() -> None:
    for scene in (sample_scene(seed) for seed in range(3000)):
        assert not any((thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in scene.things)
        if scene.relation == "below":
            assert frozenset(thing.shape for thing in scene.things) not in HELD_OUT_BELOW
    assert any(sample_scene(seed, held_out=True).held_out for seed in range(300))


def test_everything_occurs() -> None:
    things = [thing for scene in SCENES for thing in scene.things]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    assert {scene.relation for scene in SCENES} == {None, "left of", "right of", "above", "below"}
    assert {thing.striped for thing in things} == {True, False}


def test_things_are_inside_the_picture() -> None:
    for scene, image in zip(SCENES, pixels(SCENES), strict=True):
        border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
        assert (border.amax(0) - border.amin(0)).max() < 0.05, scene


def test_unknown_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="there is no shape 'blob': choose among circle"):
        sample_scene(0, shape="blob")
