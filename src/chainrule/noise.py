"""Replayable noise: a number depends on an image's seed, on a stream's name and on nothing else.

The numbers come from the CPU, so that a seed means the same on every device. Each image has its own
generators, so that it does not depend on what else is in its batch.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

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


_WHOLE = "whole numbers from 0 to 2147483647"
MOST_SEEDS = 10_000
"""The most seeds that a text may name."""
MOST = 100_000
"""The most seeds at once: more is a mistake, which would take all memory before it is noticed."""


@dataclass(frozen=True)
class Noise:
    """The random numbers of a batch of images, one generator for each seed.

    >>> a, b = Noise((3, 5)).normal(0, (2, 2)), Noise((5,)).normal(0, (2, 2))
    >>> torch.equal(a[1], b[0])
    True

    Args:
        seeds: One for each image, whole numbers from 0 to 2147483647; a single one may stand alone.

    Raises:
        UserError: One of them is not a seed, or there is none.
    """

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", as_seeds(self.seeds))

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


def as_seeds(value: int | str | Iterable[int]) -> tuple[int, ...]:
    """Seeds, one for each image.

    >>> as_seeds(7), as_seeds(range(3))
    ((7,), (0, 1, 2))

    Args:
        value: A whole number from 0 to 2147483647, or several, as a list, a range or a tensor; or
            a text of them, as in "0-3".

    Raises:
        UserError: It is something else, or there is none.
    """
    given: Any = parse_seeds(value)
    several = isinstance(given, Iterable) and getattr(given, "ndim", 1) == 1
    if not several or isinstance(given, (str, bytes, Mapping)):
        given = [given]
    seeds = tuple(map(_as_seed, islice(given, MOST + 1)))
    if len(seeds) > MOST:
        raise UserError(f"there are more than {MOST} seeds", "use fewer", "seeds")
    if not seeds:
        raise UserError("there are no seeds", "name at least one", "seeds")
    return seeds


def read_seeds(value: Any) -> tuple[int, ...]:
    """Seeds as a setting has them: in any form of `as_seeds`, in a list of words, or none.

    >>> read_seeds(["1", "5-7"]), read_seeds([])
    ((1, 5, 6, 7), ())

    Args:
        value: What was written.

    Raises:
        UserError: It is something else.
    """
    several = isinstance(value, (list, tuple))
    if several and not value:
        return ()
    words = several and all(isinstance(each, str) for each in value)
    return as_seeds(",".join(value) if words else value)


def parse_seeds(value: Any) -> Any:
    """The seeds that a text names: one, a list, or a range. Anything else stays.

    >>> parse_seeds("3"), parse_seeds("1,5"), parse_seeds("0-3")
    ((3,), (1, 5), (0, 1, 2, 3))
    """
    if not isinstance(value, str):
        return value
    seeds: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match:
            raise UserError(
                f"{value!r} is not a list of seeds",
                f"write one (7), a list (1,5,9), a range (0-3), of {_WHOLE}",
                "seeds",
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= 2**31:
            what, cure = (
                ("range of seeds", "let it rise, of") if match[2] else ("seed", "choose from")
            )
            raise UserError(f"{part.strip()!r} is not a {what}", f"{cure} {_WHOLE}", "seeds")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise UserError(
                f"{value!r} names too many seeds", f"name at most {MOST_SEEDS}", "seeds"
            )
        seeds += range(first, last + 1)
    return tuple(seeds)


def _as_seed(value: Any) -> int:
    try:
        seed = -1 if _is_bool(value) else operator.index(value)
    except TypeError:
        seed = -1
    if not 0 <= seed < 2**31:
        raise UserError(
            f"{value!r:.60} is not a seed",
            "choose a whole number from 0 to 2147483647, or several, as [0, 1] or range(4)",
            "seeds",
        )
    return seed


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) == torch.bool


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
