"""Training the bundled world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from chainrule.scenes.base import Scene, Thing


def test_what_a_bag_of_words_would_confuse() -> None:
    from chainrule.scenes.train.clip import confusions

    red, blue = Thing("circle", "red", 20, 32, 12), Thing("heart", "blue", 44, 32, 12)
    assert confusions(Scene((red, blue), "white", relation="left of")) == [
        "a red circle right of a blue shape on a white background",
        "a red shape left of a blue circle on a white background",
    ]
    assert confusions(Scene((red,), "white")) == []
    # a circle below a square is held out: not even a wrong caption says it
    square = replace(blue, shape="square")
    assert confusions(Scene((red, square), "white", relation="above")) == [
        "a red square above a blue circle on a white background"
    ]


def test_training_goes_on_after_a_kill_as_if_it_had_not_been(tmp_path: Path) -> None:
    from chainrule.scenes.train.base import Settings, fit

    def train(folder: Path, stop: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)

        def loss(step: int, generator: torch.Generator) -> torch.Tensor:
            if step == stop:
                raise KeyboardInterrupt
            return model(torch.randn(4, 3, generator=generator)).square().mean()

        settings = Settings(folder, folder)
        try:
            fit("toy", model, loss, settings, steps=8, rate=0.1, warmup=2, save_every=0.0)
        except KeyboardInterrupt:
            return train(folder, None)
        return model.weight

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert torch.equal(train(tmp_path / "whole", None), train(tmp_path / "killed", 5))


def test_timesteps_are_spread_as_was_asked() -> None:
    from chainrule.scenes.train.unet import spread_timesteps

    for early, below in ((None, 300), (0.3, 300), (0.1, 100), (0.8, 800)):
        t = spread_timesteps(1000, early, torch.Generator().manual_seed(0))
        assert 0 <= int(t.min()) < 10
        assert 990 < int(t.max()) <= 999
        assert abs(int((t < 300).sum()) - below) <= 2
        assert int((t.diff() < 0).sum()) == 1  # they rise, and begin anew once
