"""Some of the images: what belongs to an image goes with it, what is common stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from chainrule import UserError
from chainrule.diffusion.batch import PerImage, select
from chainrule.diffusion.constraints import Inpaint, NoisedReference, VisitedReference
from chainrule.diffusion.guidance import NoiseAware, OneStep
from chainrule.diffusion.guidance.semantic import Mixed
from chainrule.noise import Noise
from conftest import Gaussian, TinyNetwork, conditioned, latents, scaled_linear


def test_a_tensor_of_one_row_is_common_to_all() -> None:
    each, common, number = torch.arange(3.0), torch.ones(1, 2), torch.tensor(5.0)
    assert select(each, [2, 0]).tolist() == [2.0, 0.0]
    assert select(common, [2, 0]) is common
    assert select(number, [1]) is number


class Pair(NamedTuple):
    first: Tensor
    second: str


def test_what_holds_others_is_walked() -> None:
    x = torch.arange(3.0)
    found = select({1.0: (x, [x, "word"]), 2.0: Pair(x, "word")}, [1])
    assert found[1.0][0].tolist() == found[1.0][1][0].tolist() == [1.0]
    assert found[1.0][1][1] == "word"
    assert isinstance(found[2.0], Pair)
    assert found[2.0].first.tolist() == [1.0]
    assert select(Noise((3, 4, 5)), [2, 0]) == Noise((5, 3))
    for plain in (None, 2.5, "word", torch.nn.Identity(), len):
        assert select(plain, [1]) is plain


@dataclass(frozen=True, eq=False)
class Thing(PerImage):
    each: Tensor
    common: Tensor
    noise: Noise
    parts: Mapping[str, Tensor | float]
    made: list[int] = field(default_factory=list, init=False)


def test_every_field_of_a_dataclass_is_selected() -> None:
    thing = Thing(
        torch.arange(3.0), torch.ones(1), Noise((7, 8, 9)), {"a": torch.arange(3), "b": 1}
    )
    some = thing.select([2, 0])
    assert some.each.tolist() == [2.0, 0.0]
    assert some.common is thing.common
    assert some.noise == Noise((9, 7))
    assert some.parts["a"].tolist() == [2, 0]
    assert some.made == []
    assert thing.each.tolist() == [0.0, 1.0, 2.0]


class Plain(PerImage):
    """Not a dataclass."""


def test_what_cannot_be_told_apart_is_refused() -> None:
    known = Gaussian(torch.zeros(2, 1, 1, 1), 1.0, scaled_linear())
    for whole in (Plain(), known):
        with pytest.raises(UserError, match=f"a {type(whole).__name__} is for a whole batch"):
            whole.select([0])


@dataclass(frozen=True, eq=False)
class Target(PerImage):
    """An energy, or a loss, that has a target for each image."""

    target: Tensor

    def __call__(self, x: Tensor, t: float = 0.0) -> Tensor:
        return (x - self.target).square().sum(dim=(1, 2, 3))


@pytest.mark.parametrize("kind", ["energy", "mixed energy", "loss"])
def test_guidance_takes_what_belongs_to_the_image(kind: str) -> None:
    """An energy or a loss with something for each image is selected too."""
    denoiser, x, target = conditioned(TinyNetwork()), latents(), Target(latents(seed=5))
    guided = {
        "energy": NoiseAware(denoiser, target, 2.0),
        "mixed energy": NoiseAware(denoiser, Mixed([(0.5, target), (2.0, Target(x[:1]))]), 2.0),
        "loss": OneStep(denoiser, torch.tanh, target, 2.0),
    }[kind]
    both = guided(x, 301.0)
    torch.testing.assert_close(guided.select([1])(x[1:], 301.0).eps, both.eps[1:])


def test_constraints_take_what_belongs_to_the_image() -> None:
    x, stream = latents(), Noise((3, 4)).stream("repaint/known")
    mask = (latents(seed=8)[:, :1] > 0).double()
    noised = NoisedReference(scaled_linear(), latents(seed=6), stream)
    for known in (noised, VisitedReference({301.0: latents(seed=6)})):
        constraint = Inpaint(mask, known)
        both = constraint(x, 301.0, 5)
        torch.testing.assert_close(constraint.select([1])(x[1:], 301.0, 5), both[1:])
