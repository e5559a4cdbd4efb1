"""Replayable noise: draw i of image b depends on (seed of b, i) and on nothing else.

The numbers come from the CPU, so that a seed means the same on every device, and each image has its own generator, so
that it does not depend on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chainrule.errors import UserError


@dataclass(frozen=True)
class Noise:
    """The random numbers of a batch of images, one stream for each seed.

    >>> a, b = Noise((3, 5)).normal(0, (2, 2)), Noise((5,)).normal(0, (2, 2))
    >>> torch.equal(a[1], b[0])
    True
    """

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("there are no seeds: name at least one")
        if any(not 0 <= seed < 2**31 for seed in self.seeds):
            raise UserError(f"seeds are whole numbers from 0 to 2147483647, not {list(self.seeds)}")

    def select(self, rows: Sequence[int]) -> Noise:
        """The random numbers of some of the images."""
        return Noise(tuple(self.seeds[row] for row in rows))

    def normal(self, draw: int, shape: Sequence[int]) -> Tensor:
        """Draw number `draw`: (B, *shape), standard normal, float32."""
        return torch.stack([torch.randn(*shape, generator=generator(seed, draw)) for seed in self.seeds])

    def uniform(self, draw: int, shape: Sequence[int]) -> Tensor:
        """Draw number `draw`: (B, *shape), uniform in [0, 1), float32."""
        return torch.stack([torch.rand(*shape, generator=generator(seed, draw)) for seed in self.seeds])


def generator(seed: int, draw: int) -> torch.Generator:
    """The generator of one draw of one image. Draw 0 is `torch.manual_seed(seed)`, as everywhere else.

    The others are hashed: of a seed, torch's generator for the CPU keeps only the lowest 32 bits.
    """
    hashed = seed if draw == 0 else int(np.random.SeedSequence((seed, draw)).generate_state(1)[0])
    return torch.Generator().manual_seed(hashed)
