"""Reading pictures of the bundled world."""

from __future__ import annotations

import torch

from chainrule.images import from_pil
from chainrule.scenes.base import render, sample_scene
from chainrule.scenes.judge import check, isolate, load_judge, read, related

SCENES = [sample_scene(seed) for seed in range(300)]


def pixels(scenes) -> torch.Tensor:
    return from_pil([render(scene) for scene in scenes])


def test_pixels_tell_colours_background_and_relation() -> None:
    for scene, image in zip(SCENES, pixels(SCENES), strict=True):
        reading = read(image)
        assert reading.background == scene.background
        found = {thing.colour: thing for thing in reading.things}
        assert set(found) == {thing.colour for thing in scene.things}
        if scene.relation:
            first, second = (found[thing.colour] for thing in scene.things)
            assert related(scene.relation, first, second)
            assert not related(scene.relation, second, first)


def test_a_thing_can_be_isolated() -> None:
    scene = next(scene for scene in SCENES if scene.relation)
    kept, other = scene.things
    alone = read(isolate(pixels([scene])[0], kept.colour))
    assert [thing.colour for thing in alone.things] == [kept.colour]
    assert other.colour != kept.colour


def test_the_judge_reads_fresh_pictures_of_two_things() -> None:
    """What is measured of generated pairs is worth no more than what is read from rendered ones."""
    scenes = [scene for scene in map(sample_scene, range(400)) if scene.relation]
    judge = load_judge()
    pairs = zip(scenes, pixels(scenes), strict=True)
    verdicts = [check(judge, scene, image) for scene, image in pairs]
    assert all(verdict.colours and verdict.background and verdict.relation for verdict in verdicts)
    named = [verdict.shapes for verdict in verdicts if verdict.shapes is not None]
    assert len(named) > 50
    assert sum(named) >= 0.96 * len(named)
