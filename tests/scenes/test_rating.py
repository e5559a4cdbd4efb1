"""How beautiful a picture is, by definition, and what the rater has learnt of it."""

from __future__ import annotations

import torch

from chainrule.images import from_pil
from chainrule.losses import load_rater
from chainrule.scenes.base import Scene, Thing, render, sample_scene
from chainrule.scenes.rating import rate


def test_ratings_are_the_definition() -> None:
    assert rate(torch.ones(3, 64, 64)) == 1.0  # nothing is coloured
    centred, aside = (
        from_pil([render(Scene((Thing("circle", "red", x, 32, 15),), "white"))])[0]
        for x in (32, 16)
    )
    assert rate(centred) > 9.5
    assert rate(aside) < 5  # neither in the middle nor symmetric


def test_the_bundled_rater_agrees_with_the_definition() -> None:
    """It explains a good part of the ratings of pictures that it has never seen."""
    fresh = from_pil([render(sample_scene(seed)) for seed in range(300)])
    with torch.no_grad():
        rated = load_rater()(fresh)
    true = torch.tensor([rate(image) for image in fresh])
    assert torch.corrcoef(torch.stack([rated, true]))[0, 1] > 0.5
