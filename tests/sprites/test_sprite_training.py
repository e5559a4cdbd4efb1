"""Training the world of sprites: what is shown to whom, and trainings that end by time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from chainrule.sprites.artwork import STYLES, Artwork
from chainrule.sprites.base import HELD_OUT_KINDS, Scene, Thing
from chainrule.sprites.things import KINDS


def test_only_judges_see_what_is_held_out() -> None:
    from chainrule.scenes.train.base import Settings
    from chainrule.sprites.train.parts import JUDGES, PARTS, SOURCES, Drawer, show_all

    drawer = Drawer(Path("art"))
    folder = Path("work")
    settings = Settings(folder, folder, rebuilt=2000, sample=drawer.sample, draw=drawer)
    mine, theirs = settings, show_all(settings)

    def list_kinds(some: Settings) -> set[str]:
        return {thing.kind for scene in some.list_scenes(2000) for thing in scene.things}

    assert not list_kinds(mine) & HELD_OUT_KINDS
    assert list_kinds(theirs) & HELD_OUT_KINDS
    assert theirs.work != mine.work  # kept pictures are named after their number only
    assert set(JUDGES) <= set(PARTS)
    assert all(source.exists() for source in SOURCES)


def test_a_drawer_draws_the_scene_of_its_seed(tmp_path: Path) -> None:
    from chainrule.sprites.train.parts import Drawer, load_once

    pixels = np.full((len(STYLES), len(KINDS), 64, 64, 4), 255, np.uint8)
    np.savez(tmp_path / "artwork.npz", pixels=pixels)
    drawer = Drawer(tmp_path)
    drawn = drawer(7)
    assert drawn.shape == (64, 64, 3)
    assert drawn.dtype == np.uint8
    thing = drawer.sample(7).things[0]
    assert (drawn[thing.y, thing.x] == 255).all()
    assert isinstance(load_once(tmp_path), Artwork)


def test_what_a_bag_of_words_would_confuse() -> None:
    from chainrule.sprites.train.networks import confuse

    owl, pizza = Thing("owl", 16, 32, 30), Thing("pizza", 48, 32, 30)
    scene = Scene((owl, pizza), "flat", "blue", relation="left of")
    assert confuse(scene) == ["a bird right of a pizza drawn flat on a blue background"]
    assert confuse(Scene((owl,), "flat", "blue")) == []


def test_a_training_ends_by_time_and_its_rate_falls_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from chainrule.scenes.train import base

    clock = iter(float(i) for i in range(10_000))
    monkeypatch.setattr(base.time, "time", lambda: next(clock))
    rates = []

    model = torch.nn.Linear(3, 1)
    monkeypatch.setattr(base, "_set_rate", lambda optimiser, rate: rates.append(rate))

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        return model(torch.randn(4, 3, generator=generator)).square().mean()

    settings = base.Settings(tmp_path, tmp_path, minutes={"toy": 1.0})
    base.fit("toy", model, loss, settings, steps=10_000, rate=1.0, warmup=1)
    assert "its time is over" in capsys.readouterr().out
    assert 10 < len(rates) < 100
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1
    # its time is spent: the same command does not begin anew
    base.fit("toy", model, loss, settings, steps=10_000, rate=1.0, warmup=1)
    assert len(rates) < 100


def test_minutes_are_read_by_name() -> None:
    from chainrule.sprites.train.__main__ import read_minutes

    assert read_minutes("unet=5.5") == ("unet", 5.5)
    with pytest.raises(ValueError, match="could not convert"):
        read_minutes("unet")


def test_what_each_scene_shows_is_marked() -> None:
    from chainrule.scenes.train.base import mark_present

    owl, cat = Thing("owl", 32, 32, 40), Thing("panda", 32, 32, 40)
    scenes = [Scene((owl,), "flat", "blue"), Scene((owl, cat), "flat", "blue", relation="above")]
    marked = mark_present(scenes, ("owl", "panda", "cow"), lambda thing: thing.kind)
    assert marked.tolist() == [[1, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "judge_clip=1"], "no part 'judge_clip'"),
        (["sleep"], "no part 'sleep'"),
        (["--together", "unet"], "trains all parts"),
    ],
)
def test_what_would_be_ignored_is_refused(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from chainrule.sprites.train.__main__ import main

    monkeypatch.setattr("sys.argv", ["train", *words])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err
