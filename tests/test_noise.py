"""Noise depends on the image's seed, the stream's name and the draw, and on nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch

from chainrule import Noise, UserError
from chainrule.noise import PUBLISHED, as_seeds, generator

HASHED = "tests/hashed"
PINNED = [-0.703959, 0.356531, 1.549967, 1.047991, -0.351429, -2.207339, 1.682338, 0.255143]
"""Draw 1 of seed 7 of each published stream, in their order."""


def test_noise_is_replayable_per_image() -> None:
    noise = Noise((4, 9, 4))
    assert torch.equal(noise.normal(3, (2, 2))[1], Noise((9,)).normal(3, (2, 2))[0])
    assert torch.equal(noise.normal(3, (5,))[0], noise.normal(3, (5,))[2])
    assert not torch.equal(noise.normal(3, (5,)), noise.normal(4, (5,)))
    some = torch.stack(
        [
            Noise((9,)).normal(draw, (2,))[0]
            for draw in (0, 1, 2, 3, 1 << 20, 1 << 21, (1 << 21) + 1)
        ]
    )
    assert len(some.unique(dim=0)) == len(some)
    assert torch.equal(
        noise.normal(0, (3,))[1], torch.randn(3, generator=torch.Generator().manual_seed(9))
    )


@pytest.mark.parametrize("seeds", [(), (-1,), (2**31,)])
def test_impossible_seeds_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="seed"):
        Noise(seeds)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_streams_are_the_old_numbered_draws(name: str) -> None:
    """The numbers of images that were made when draws had numbers, not names."""
    noise, first = Noise((4, 9)), PUBLISHED[name]
    for k in (0, 3):
        assert torch.equal(noise.stream(name).normal(k, (3,)), noise.normal(first + k, (3,)))
        assert torch.equal(noise.stream(name).uniform(k, (3,)), noise.uniform(first + k, (3,)))
        (source,) = Noise((9,)).stream(name).generators(k)
        assert source.initial_seed() == generator(9, first + k).initial_seed()


def test_published_numbers_are_pinned() -> None:
    found = [Noise((7,)).stream(name).normal(1, (1,)).item() for name in PUBLISHED]
    assert found == pytest.approx(PINNED, abs=1e-6)


def test_hashed_numbers_are_pinned() -> None:
    assert Noise((7,)).stream(HASHED).normal(1, (1,)).item() == pytest.approx(0.037415, abs=1e-6)


def test_every_stream_has_its_own_numbers() -> None:
    noise = Noise((4,))
    streams = [noise.stream(name) for name in (*PUBLISHED, HASHED, HASHED.upper(), "")]
    found = [stream.normal(k, (2,))[0] for stream in streams for k in (0, 1)]
    found += [noise.normal(draw, (2,))[0] for draw in (0, 1)]
    assert len(torch.stack(found).unique(dim=0)) == len(found)


@pytest.mark.parametrize("name", ["ddpm", HASHED])
def test_the_numbers_of_an_image_do_not_depend_on_its_batch(name: str) -> None:
    stream = Noise((4, 9, 4)).stream(name)
    both = stream.normal(2, (2, 2))
    assert torch.equal(both[1], Noise((9,)).stream(name).normal(2, (2, 2))[0])
    assert torch.equal(both[0], both[2])
    assert not torch.equal(both[0], both[1])
    assert torch.equal(stream.select([1]).normal(2, (2, 2)), both[1:2])
    assert torch.equal(Noise((4, 9, 4)).select([1]).stream(name).normal(2, (2, 2)), both[1:2])


@pytest.mark.parametrize("seeds", [5, [5], range(5, 6), torch.tensor([5]), iter([5])])
def test_seeds_are_whole_numbers_in_any_form(seeds) -> None:
    assert Noise(seeds).seeds == as_seeds(5) == (5,)


@pytest.mark.parametrize(
    "seeds", [True, 1.0, "a", None, {1: 2}, [None], range(10**12), itertools.count()]
)
def test_what_is_no_seed_is_refused_at_once(seeds) -> None:
    with pytest.raises(UserError, match="seed"):
        Noise(seeds)
