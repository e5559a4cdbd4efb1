"""Prompt-to-Prompt's attention maps.

Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control", 2022.

Two chains run side by side, one told the `source` prompt and one the `target`, and the
second borrows from the first:

    M*_t = M_t(source) where the word is the same, M_t(target) elsewhere,
           until a share of the steps                                        eq. 3-5
    M*_t scaled by c for words to be weighted                                eq. 6

and its self-attention for another share. With a local blend (section 3.3 of the released
method) the latents are the source's own wherever neither prompt's chosen words look:

    x_s = source + m (x_s - source),    m = [mean over the maps so far > threshold]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from chainrule.diffusion.batch import PerImage
from chainrule.diffusion.constraints.base import Constraint
from chainrule.diffusion.control.base import module
from chainrule.diffusion.denoiser import (
    Conditioned,
    Conditioning,
    Denoiser,
    Parameterization,
    Prediction,
    find_networks,
    repeat,
)
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.diffusion.schedule import Schedule
from chainrule.diffusion.solvers.base import Solver, State, WrappedSolver
from chainrule.errors import UserError

AlignmentName = Literal["global", "longest"]
"""How the tokens of two prompts may be matched."""

LARGEST_BORROWED = 32**2
"""The largest map, in places, whose self-attention is borrowed, as in the released method."""

LARGEST_REMEMBERED = 16**2
"""The largest map, in places, that is remembered, likewise.

Where all are larger, the smallest is."""


@dataclass(frozen=True, eq=False)
class Alignment(PerImage):
    """Which token of the source each token of the target takes the map of.

    Args:
        across: (B or 1, K, K') weighs the source's tokens for each of the target's.
        borrowed: (B or 1, K') is 1 where they are taken.
    """

    across: Tensor
    borrowed: Tensor


def align(
    source: Sequence[str],
    target: Sequence[str],
    *,
    replaced: bool = True,
    by: AlignmentName = "global",
) -> Alignment:
    """Find what the tokens of two prompts have in common.

    New tokens look for themselves (refinement).

    Args:
        source: The K tokens of the one prompt.
        target: The K' tokens of the other.
        replaced: Whether tokens that stand in the place of others look where these did
            (replacement), or for themselves.
        by: What is common: "global", the most tokens (`match_globally`, as in the released code),
            or "longest", the longest run of tokens first, and then on both sides of it.
    """
    across, borrowed = torch.zeros(len(source), len(target)), torch.zeros(len(target))
    match = match_globally if by == "global" else match_longest
    i, k = 0, 0  # the first that are not yet matched
    for j, last in [*match(source, target), (len(source), len(target))]:
        if replaced and i < j and k < last:
            one_by_one = j - i == last - k
            across[i:j, k:last] = torch.eye(j - i) if one_by_one else 1.0 / (last - k)
            borrowed[k:last] = 1.0
        if j < len(source):
            across[j, last] = borrowed[last] = 1.0
        i, k = j + 1, last + 1
    return Alignment(across[None], borrowed[None])


def match_globally(source: Sequence[str], target: Sequence[str]) -> list[tuple[int, int]]:
    """The places of equal tokens in an alignment of the best score, in order.

        S(i, k) = max(S(i - 1, k), S(i, k - 1), S(i - 1, k - 1) + (1 if equal, else -1))

    Needleman & Wunsch, "A general method applicable to the search for similarities in the amino
    acid sequence of two proteins", 1970. As in Prompt-to-Prompt's released code, a gap costs
    nothing, so that different tokens are never paired; equally good alignments are told apart as
    there: from the end backwards, a token of the target is left out first, then one of the source.

    Args:
        source: The one sequence.
        target: The other.
    """
    scores = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, one in enumerate(source, 1):
        for k, other in enumerate(target, 1):
            paired = scores[i - 1][k - 1] + (1 if one == other else -1)
            scores[i][k] = max(scores[i - 1][k], scores[i][k - 1], paired)
    pairs, i, k = [], len(source), len(target)
    while i and k:
        if scores[i][k] == scores[i][k - 1]:
            k -= 1
        elif scores[i][k] == scores[i - 1][k]:
            i -= 1
        else:
            i, k = i - 1, k - 1
            pairs.append((i, k))
    return pairs[::-1]


def match_longest(source: Sequence[str], target: Sequence[str]) -> list[tuple[int, int]]:
    """The places of equal tokens: the longest common run, then so on both sides of it, in order.

    Ratcliff & Metzener, "Pattern Matching: The Gestalt Approach", 1988.

    Args:
        source: The one sequence.
        target: The other.
    """
    blocks = SequenceMatcher(None, source, target, autojunk=False).get_matching_blocks()
    return [(block.a + n, block.b + n) for block in blocks for n in range(block.size)]


class Maps:
    """The cross-attention maps of source and target, averaged over heads and layers.

    Kept by time, so that a step that is rebuilt for its gradient leaves what it found before.
    """

    def __init__(self) -> None:
        self.at: dict[float, Tensor] = {}

    def mean(self, t: float = 0.0) -> Tensor:
        """The mean from the start of the chain to time `t`, (2B, K, h, w): source, then target."""
        return torch.stack([found for time, found in self.at.items() if time >= t]).mean(dim=0)


@dataclass(frozen=True, eq=False)
class AttentionEdit(PerImage):
    """What the target takes from the source.

    Args:
        alignment: Which maps.
        cross: The last time at which cross-attention is taken.
        own: The last time at which self-attention is taken.
        weights: (B or 1, K') scale the maps of the target's tokens (the equaliser).
        maps: What is remembered; some of the images share it with all.
    """

    alignment: Alignment
    cross: float
    own: float
    weights: Tensor
    maps: Maps = field(default_factory=Maps)

    def __call__(self, source: Tensor, target: Tensor, t: float, *, is_cross: bool) -> Tensor:
        """The target's probabilities.

        Args:
            source: The source's probabilities (B, heads, places, K).
            target: The target's (B, heads, places, K').
            t: The time.
            is_cross: Whether the K are tokens, not places.
        """
        if not is_cross:
            return source if t >= self.own and target.shape[-2] <= LARGEST_BORROWED else target
        if t < self.cross:
            return target
        across = self.alignment.across.to(target)[:, None]  # for every head
        borrowed, weights = (
            value.to(target)[:, None, None] for value in (self.alignment.borrowed, self.weights)
        )
        return (borrowed * (source @ across) + (1 - borrowed) * target) * weights


@dataclass(frozen=True, eq=False)
class PairedDenoiser(PerImage, Denoiser):
    """Two denoisers asked in one call about 2B latents.

    Args:
        source: What the first half is asked of.
        target: What the second half is asked of.
        edit: What the second half takes from the first.
    """

    source: Denoiser
    target: Denoiser
    edit: AttentionEdit

    @property
    def schedule(self) -> Schedule:
        return self.target.schedule

    @property
    def parameterization(self) -> Parameterization:
        return self.target.parameterization

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (*self.source.inputs, *self.target.inputs)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return find_networks(self.source, self.target)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        both = _join(self.source, self.target, len(x) // 2)
        with _edit_attention(both, self.edit, x, t):
            return both(x, t)


def _join(source: Denoiser, target: Denoiser, batch: int) -> Denoiser:
    """One denoiser for the latents of both, `batch` of each."""
    if isinstance(source, ClassifierFree) and isinstance(target, ClassifierFree):
        if source.guidance_scale == target.guidance_scale:
            inner = _join_conditioned(source.denoiser, target.denoiser, batch)
            negative = _join_conditioning(source.negative, target.negative, batch)
            return ClassifierFree(inner, negative, target.guidance_scale)
    elif isinstance(source, Conditioned) and isinstance(target, Conditioned):
        return _join_conditioned(source, target, batch)
    raise UserError(
        "the two prompts must be guided alike",
        "say what the picture shows and what it should show, and one scale",
    )


def _join_conditioned(source: Conditioned, target: Conditioned, batch: int) -> Conditioned:
    conditioning = _join_conditioning(source.conditioning, target.conditioning, batch)
    return Conditioned(target.network, conditioning)


def _join_conditioning(source: Conditioning, target: Conditioning, batch: int) -> Conditioning:
    pairs = zip(repeat(source, batch), repeat(target, batch), strict=True)
    return tuple(torch.cat(pair) for pair in pairs)


def layers(denoiser: Denoiser) -> list[Any]:
    """The attention layers of a denoiser's network.

    Raises:
        UserError: If none looks from image to text.
    """
    from diffusers.models.attention_processor import Attention

    network = module(denoiser)
    found = [part for part in network.modules() if isinstance(part, Attention)]
    if not any(part.is_cross_attention for part in found):
        raise UserError(
            f"a {type(network).__name__} has no cross-attention from image to text, which "
            "Prompt-to-Prompt edits",
            "choose a checkpoint with a U-Net, or PixArt",
        )
    return found


@contextmanager
def _edit_attention(denoiser: Denoiser, edit: AttentionEdit, x: Tensor, t: float) -> Iterator[None]:
    """While this lasts, the network's maps go through `edit`."""
    from diffusers.models.attention_processor import AttnProcessor

    found = layers(denoiser)
    seen: dict[int, list[Tensor]] = {}
    before = [part.processor for part in found]
    try:
        for part in found:
            part.get_attention_scores = _edit_scores(part, edit, x, t, seen)
            part.set_processor(AttnProcessor())
        yield
    finally:
        for part, processor in zip(found, before, strict=True):
            del part.get_attention_scores
            part.set_processor(processor)
    small = max((places for places in seen if places <= LARGEST_REMEMBERED), default=min(seen))
    maps = torch.stack(seen[small]).mean(dim=0).mT  # (2B, K, places)
    edit.maps.at[t] = maps.unflatten(2, _find_sides(small, x))


def _edit_scores(
    part: Any, edit: AttentionEdit, x: Tensor, t: float, seen: dict[int, list[Tensor]]
) -> Callable[..., Tensor]:
    """A layer's scores, edited; `seen` takes the cross-attention maps by their size."""
    scores = part.get_attention_scores

    def edited(query: Tensor, *others: Any) -> Tensor:
        by_row = scores(query, *others).unflatten(0, (-1, part.heads))
        half, places = len(x) // 2, by_row.shape[2]
        # with guidance, the rows before are those of the negative prompt
        rest, source, target = by_row.split([len(by_row) - len(x), half, half])
        largest = max(LARGEST_REMEMBERED, min(seen, default=places))
        if part.is_cross_attention and places <= largest:
            maps = torch.cat([source, target]).detach().mean(dim=1)
            seen.setdefault(places, []).append(maps)
        target = edit(source, target, t, is_cross=part.is_cross_attention)
        return torch.cat([rest, source, target]).flatten(0, 1)

    return edited


def _find_sides(places: int, x: Tensor) -> tuple[int, int]:
    """The (h, w) of a map of so many places, for latents `x` (B, C, h, w).

    Each halving rounds up.
    """
    height, width = x.shape[-2:]
    while height * width > places:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != places:
        raise UserError(
            f"attention maps of {places} places are not understood",
            "choose a size whose sides are multiples of 64",
            "size",
        )
    return height, width


@dataclass(frozen=True, eq=False)
class Blend(PerImage):
    """Where the chosen tokens look.

    Args:
        source: (B or 1, K) is 1 for the chosen tokens of the source.
        target: (B or 1, K') likewise for the target.
        start: The time from which on the latents are blended.
        threshold: The share of the greatest attention above which a place is looked at.
    """

    source: Tensor
    target: Tensor
    start: float
    threshold: float = 0.3

    def mask(self, maps: Tensor, like: Tensor) -> Tensor:
        """Where either looks.

        Args:
            maps: (2B, K, h', w'), the source's, then the target's.
            like: Latents (B, C, h, w).

        Returns:
            (B, 1, h, w), boolean.
        """
        each = [
            (chosen.to(half)[:, :, None, None] * half).sum(dim=1, keepdim=True)
            for half, chosen in zip(maps.chunk(2), (self.source, self.target), strict=True)
        ]
        wide = [functional.max_pool2d(found, 3, stride=1, padding=1) for found in each]
        large = [functional.interpolate(found, like.shape[-2:]) for found in wide]
        looked_at = [
            found > self.threshold * found.amax(dim=(2, 3), keepdim=True) for found in large
        ]
        return torch.stack(looked_at).any(0)


@dataclass(frozen=True, eq=False)
class Pairing(Constraint):
    """Solvers on a target beside its source, for a `PairedDenoiser`.

    Args:
        edit: That of the denoiser.
        blend: Keeps the latents to the source's where nothing looks; None: nowhere.
    """

    edit: AttentionEdit
    blend: Blend | None = None

    def on(self, solver: Solver) -> Solver:
        if solver.rises:
            raise UserError(
                f"Prompt-to-Prompt needs a deterministic solver, not {type(solver).__name__}",
                "use DDIM or EDICT",
                "solver",
            )
        return _Paired(solver, self)


@dataclass(frozen=True, eq=False)
class _Paired(WrappedSolver):
    """The state is the solver's, of 2B images: sources, then targets."""

    solver: Solver
    pairing: Pairing

    @property
    def calls(self) -> int:
        return 2 * self.solver.calls  # as many calls, each about both

    def start(self, latents: State) -> State:
        return self.solver.start(tuple(torch.cat([x, x]) for x in latents))

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        after = self.solver.step(denoiser, state, k, t, s)
        blend, maps = self.pairing.blend, self.pairing.edit.maps
        if blend is None or s >= blend.start:
            return after
        pairs = [x.chunk(2) for x in self.solver.latents(after)]
        mask = blend.mask(maps.mean(t), pairs[0][0]).to(pairs[0][0])
        blended = tuple(source + mask * (target - source) for source, target in pairs)
        return self.replace_latents(after, blended)

    def latents(self, state: State) -> State:
        return tuple(x.chunk(2)[1] for x in self.solver.latents(state))

    def replace_latents(self, state: State, latents: State) -> State:
        sources = [x.chunk(2)[0] for x in self.solver.latents(state)]
        both = tuple(torch.cat(pair) for pair in zip(sources, latents, strict=True))
        return self.solver.replace_latents(state, both)
