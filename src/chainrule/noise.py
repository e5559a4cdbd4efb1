"""Replayable noise: a number depends on an image's seed, on a stream's name and on nothing else.

The numbers come from the CPU, so that a seed means the same on every device. Each image has its own
generators, so that it does not depend on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from chainrule.errors import UserError

PUBLISHED = {
    "doodl/perturbation": 1 << 20,
    "doodl/crops": 1 << 21,
    "stylize/order": 1 << 22,
    "ddpm": 1 << 23,
    "repaint/known": 1 << 24,
    "ilvr/reference": 1 << 25,
    "sdedit/repeats": 1 << 26,
    "diffedit/mask": 1 << 27,
}
"""The streams that were numbered before they had names: draw k of such a stream is the seed's draw
number first + k, so that images that were published can be made again."""


@dataclass(frozen=True)
class Noise:
    """The random numbers of a batch of images, one generator for each seed.

    >>> a, b = Noise((3, 5)).normal(0, (2, 2)), Noise((5,)).normal(0, (2, 2))
    >>> torch.equal(a[1], b[0])
    True
    """

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("there are no seeds", "name at least one", "seeds")
        if any(not 0 <= seed < 2**31 for seed in self.seeds):
            raise UserError(
                f"{list(self.seeds)} are not all seeds",
                "choose whole numbers from 0 to 2147483647",
                "seeds",
            )

    def select(self, rows: Sequence[int]) -> Noise:
        """The random numbers of some of the images."""
        return Noise(tuple(self.seeds[row] for row in rows))

    def stream(self, name: str) -> Stream:
        """Numbers of their own for one use, which no other use touches."""
        return Stream(self.seeds, name)

    def normal(self, draw: int, shape: Sequence[int]) -> Tensor:
        """The seeds' own numbers, standard normal.

        Args:
            draw: Which of them; 0 is the starting noise.
            shape: Of one image's numbers.

        Returns:
            (B, *shape), float32.
        """
        return torch.stack([_normal(generator(seed, draw), shape) for seed in self.seeds])

    def uniform(self, draw: int, shape: Sequence[int]) -> Tensor:
        """As `normal`, but uniform in [0, 1)."""
        return torch.stack([_uniform(generator(seed, draw), shape) for seed in self.seeds])


@dataclass(frozen=True)
class Stream:
    """The random numbers of a batch of images for one use, which has a name.

    >>> z = Noise((3, 5)).stream("ddpm").normal(7, (2, 2))
    >>> torch.equal(z[1], Noise((5,)).stream("ddpm").normal(7, (2, 2))[0])
    True

    Args:
        seeds: One for each image.
        name: What the numbers are for, as in "repaint/known".
    """

    seeds: tuple[int, ...]
    name: str

    def select(self, rows: Sequence[int]) -> Stream:
        """The random numbers of some of the images."""
        return Stream(tuple(self.seeds[row] for row in rows), self.name)

    def normal(self, k: int, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers.

        Args:
            k: Which draw of the stream, from 0.
            shape: Of one image's numbers.

        Returns:
            (B, *shape), float32.
        """
        return self._draw(_normal, k, shape)

    def uniform(self, k: int, shape: Sequence[int]) -> Tensor:
        """As `normal`, but uniform in [0, 1)."""
        return self._draw(_uniform, k, shape)

    def generators(self, k: int) -> tuple[torch.Generator, ...]:
        """The generator of draw `k` of each image, for numbers of another kind."""
        return tuple(_stream_generator(seed, self.name, k) for seed in self.seeds)

    def _draw(
        self,
        kind: Callable[[torch.Generator, Sequence[int]], Tensor],
        k: int,
        shape: Sequence[int],
    ) -> Tensor:
        return torch.stack([kind(each, shape) for each in self.generators(k)])


def generator(seed: int, draw: int) -> torch.Generator:
    """The generator of one draw of one image.

    Draw 0 is `torch.manual_seed(seed)`, as everywhere else. The others are hashed: torch's
    generator for the CPU keeps only the lowest 32 bits of a seed.

    Args:
        seed: The image's.
        draw: Which one, from 0.
    """
    return torch.Generator().manual_seed(seed if draw == 0 else _hash(seed, draw))


def _stream_generator(seed: int, name: str, k: int) -> torch.Generator:
    """The generator of draw `k` of the stream called `name`."""
    if name in PUBLISHED:
        return generator(seed, PUBLISHED[name] + k)
    words = int.from_bytes(sha256(name.encode()).digest(), "big")
    return torch.Generator().manual_seed(_hash(seed, words, k))


def _hash(*numbers: int) -> int:
    """32 bits that depend on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _normal(source: torch.Generator, shape: Sequence[int]) -> Tensor:
    return torch.randn(*shape, generator=source)


def _uniform(source: torch.Generator, shape: Sequence[int]) -> Tensor:
    return torch.rand(*shape, generator=source)
