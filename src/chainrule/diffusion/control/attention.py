"""Attention maps: Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control", 2022.

Two chains run side by side, one told the `source` prompt and one the `target`, and the second borrows from the first:

    M*_t = M_t(source) where the word is the same, M_t(target) elsewhere, until a share of the steps    eq. 3-5
    M*_t scaled by c for words to be weighted                                                           eq. 6

and its self-attention for another share. With a local blend (section 3.3 of the released method) the latents are the
source's own wherever neither prompt's chosen words look:

    x_s = source + m (x_s - source),    m = [mean over the maps so far > threshold]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from chainrule.diffusion.constraints.base import Constraint
from chainrule.diffusion.control.base import module
from chainrule.diffusion.denoiser import Conditioned, Conditioning, Denoiser, Prediction, repeat, some
from chainrule.errors import UserError
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.diffusion.solvers.base import WrappedSolver, State, Solver

LARGEST, SEEN = 32**2, 16**2
"""The largest map, in places, whose self-attention is borrowed, and the largest that is remembered (as in the released
method); where all are larger, the smallest is."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which token of the source each token of the target takes the map of.

    `across` (B, K, K') weighs the source's tokens for each of the target's; `borrowed` (B, K') is 1 where they are
    taken. B may be 1.
    """

    across: Tensor
    borrowed: Tensor


def align(source: Sequence[str], target: Sequence[str], *, replaced: bool = True) -> Alignment:
    """By what the tokens of two prompts have in common.

    New tokens look for themselves (refinement); those that stand in the place of others look where these did
    (replacement), unless `replaced` says that they too look for themselves.
    """
    across, borrowed = torch.zeros(len(source), len(target)), torch.zeros(len(target))
    for kind, i, j, k, last in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        if kind == "equal":
            across[range(i, j), range(k, last)] = 1.0
        elif kind == "replace" and replaced:
            across[i:j, k:last] = torch.eye(j - i) if j - i == last - k else 1.0 / (last - k)
        else:
            continue
        borrowed[k:last] = 1.0
    return Alignment(across[None], borrowed[None])


class Maps:
    """The cross-attention maps of the target and the source at each time, averaged over heads and layers.

    Kept by time, so that a step that is rebuilt for its gradient leaves what it found before.
    """

    def __init__(self) -> None:
        self.at: dict[float, Tensor] = {}

    def mean(self, t: float = 0.0) -> Tensor:
        """The mean from the start of the chain to time `t`, (2B, K, h, w): source, then target."""
        return torch.stack([found for time, found in self.at.items() if time >= t]).mean(dim=0)


@dataclass(frozen=True, eq=False)
class AttentionEdit:
    """What the target takes from the source: cross-attention down to time `cross`, self-attention down to `own`.

    `weights` (B or 1, K') scale the maps of the target's tokens (the equaliser); `maps` remembers.
    """

    alignment: Alignment
    cross: float
    own: float
    weights: Tensor
    maps: Maps = field(default_factory=Maps)

    def __call__(self, source: Tensor, target: Tensor, t: float, *, is_cross: bool) -> Tensor:
        """The target's probabilities (B, heads, places, K), given both's."""
        if not is_cross:
            return source if t >= self.own and target.shape[-2] <= LARGEST else target
        if t < self.cross:
            return target
        across = self.alignment.across.to(target)[:, None]  # for every head
        borrowed, weights = (value.to(target)[:, None, None] for value in (self.alignment.borrowed, self.weights))
        return (borrowed * (source @ across) + (1 - borrowed) * target) * weights

    def select(self, rows: Sequence[int]) -> AttentionEdit:
        """The same for some of the images, with the same memory."""
        across, borrowed, weights = some((self.alignment.across, self.alignment.borrowed, self.weights), rows)
        return replace(self, alignment=Alignment(across, borrowed), weights=weights)


@dataclass(frozen=True, eq=False)
class PairedDenoiser(Denoiser):
    """`source` and `target` asked in one call about 2B latents, the second half under `edit`."""

    source: Denoiser
    target: Denoiser
    edit: AttentionEdit

    @property
    def schedule(self):  # type: ignore[no-untyped-def, override]
        return self.target.schedule

    @property
    def parameterization(self):  # type: ignore[no-untyped-def, override]
        return self.target.parameterization

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (*self.source.inputs, *self.target.inputs)

    def select(self, rows: Sequence[int]) -> PairedDenoiser:
        return PairedDenoiser(self.source.select(rows), self.target.select(rows), self.edit.select(rows))

    def __call__(self, x: Tensor, t: float) -> Prediction:
        both = _joined(self.source, self.target, len(x) // 2)
        with _attention(both, self.edit, x, t):
            return both(x, t)


def _joined(source: Denoiser, target: Denoiser, batch: int) -> Denoiser:
    """One denoiser for the latents of both."""

    def cat(first: Conditioning, second: Conditioning) -> Conditioning:
        return tuple(torch.cat(pair) for pair in zip(repeat(first, batch), repeat(second, batch), strict=True))

    scales = [each.guidance_scale for each in (source, target) if isinstance(each, ClassifierFree)]
    if isinstance(source, ClassifierFree) and isinstance(target, ClassifierFree) and scales[0] == scales[1]:
        negative = cat(source.negative, target.negative)
        return ClassifierFree(_joined(source.denoiser, target.denoiser, batch), negative, target.guidance_scale)  # type: ignore[arg-type]
    if isinstance(source, Conditioned) and isinstance(target, Conditioned):
        return Conditioned(target.network, cat(source.conditioning, target.conditioning))
    raise UserError(
        "the two prompts must be guided alike: say what the picture shows and what it should show, and one scale"
    )


def layers(denoiser: Denoiser) -> list[Any]:
    """The attention layers of a denoiser's network. Raises UserError if none looks from image to text."""
    from diffusers.models.attention_processor import Attention

    network = module(denoiser)
    found = [part for part in network.modules() if isinstance(part, Attention)]
    if not any(part.is_cross_attention for part in found):
        raise UserError(
            f"a {type(network).__name__} has no cross-attention from image to text, which Prompt-to-Prompt edits: "
            "choose a checkpoint with a U-Net, or PixArt"
        )
    return found


@contextmanager
def _attention(denoiser: Denoiser, edit: AttentionEdit, x: Tensor, t: float) -> Iterator[None]:
    """While this lasts, the network's maps go through `edit`."""
    from diffusers.models.attention_processor import AttnProcessor

    found = layers(denoiser)
    seen: dict[int, list[Tensor]] = {}

    def wrapped(part: Any, scores: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def edited(query: Tensor, *others: Any) -> Tensor:
            every = scores(query, *others)
            by_row = every.unflatten(0, (-1, part.heads))
            rest, source, target = by_row.split([len(by_row) - len(x), len(x) // 2, len(x) // 2])
            if part.is_cross_attention and by_row.shape[2] <= max(SEEN, min(seen, default=by_row.shape[2])):
                seen.setdefault(by_row.shape[2], []).append(torch.cat([source, target]).detach().mean(dim=1))
            target = edit(source, target, t, is_cross=part.is_cross_attention)
            return torch.cat([rest, source, target]).flatten(0, 1)

        return edited

    before = [part.processor for part in found]
    try:
        for part in found:
            part.get_attention_scores = wrapped(part, part.get_attention_scores)
            part.set_processor(AttnProcessor())
        yield
    finally:
        for part, processor in zip(found, before, strict=True):
            del part.get_attention_scores
            part.set_processor(processor)
    small = max((places for places in seen if places <= SEEN), default=min(seen))
    maps = torch.stack(seen[small]).mean(dim=0).mT  # (2B, K, places)
    edit.maps.at[t] = maps.unflatten(2, _sides(small, x))


def _sides(places: int, x: Tensor) -> tuple[int, int]:
    """The (h, w) of a map of so many places, for latents `x` (B, C, h, w)."""
    height, width = x.shape[-2:]
    rows = min((d for d in range(1, places + 1) if places % d == 0), key=lambda d: abs(d * d - places * height / width))
    return rows, places // rows


@dataclass(frozen=True, eq=False)
class Blend:
    """Where the chosen tokens look: `source` and `target` (B or 1, K) are 1 for these; from time `start` on."""

    source: Tensor
    target: Tensor
    start: float
    threshold: float = 0.3

    def select(self, rows: Sequence[int]) -> Blend:
        """The same for some of the images."""
        source, target = some((self.source, self.target), rows)
        return replace(self, source=source, target=target)

    def mask(self, maps: Tensor, like: Tensor) -> Tensor:
        """(B, 1, h, w) for latents `like`, true where either looks; `maps` (2B, K, h', w'), source's and target's."""
        each = [
            (chosen.to(half)[:, :, None, None] * half).sum(dim=1, keepdim=True)
            for half, chosen in zip(maps.chunk(2), (self.source, self.target), strict=True)
        ]
        wide = [functional.max_pool2d(found, 3, stride=1, padding=1) for found in each]
        large = [functional.interpolate(found, like.shape[-2:]) for found in wide]
        return torch.stack([found > self.threshold * found.amax(dim=(2, 3), keepdim=True) for found in large]).any(0)


@dataclass(frozen=True, eq=False)
class Pairing(Constraint):
    """Solvers on a target beside its source, for a `PairedDenoiser` denoiser; `blend` (None: no) keeps to the source."""

    edit: AttentionEdit
    blend: Blend | None = None

    def on(self, solver: Solver) -> Solver:
        if solver.rises:
            raise UserError(
                f"Prompt-to-Prompt needs a deterministic solver, not {type(solver).__name__}: use DDIM or EDICT"
            )
        return _Paired(solver, self)

    def select(self, rows: Sequence[int]) -> Pairing:
        return Pairing(self.edit.select(rows), self.blend and self.blend.select(rows))


@dataclass(frozen=True, eq=False)
class _Paired(WrappedSolver):
    """The state is the solver's, of 2B images: sources, then targets."""

    solver: Solver
    pairing: Pairing

    @property
    def calls(self) -> int:  # type: ignore[override]
        return 2 * self.solver.calls  # as many calls, each about both

    def begin(self, latents: State) -> State:
        return self.solver.begin(tuple(torch.cat([x, x]) for x in latents))

    def step(self, denoiser: Denoiser, state: State, t: float, s: float) -> State:
        after = self.solver.step(denoiser, state, t, s)
        blend, maps = self.pairing.blend, self.pairing.edit.maps
        if blend is None or s >= blend.start:
            return after
        pairs = [x.chunk(2) for x in self.solver.latents(after)]
        mask = blend.mask(maps.mean(t), pairs[0][0]).to(pairs[0][0])
        return self.moved(after, tuple(source + mask * (target - source) for source, target in pairs))

    def latents(self, state: State) -> State:
        return tuple(x.chunk(2)[1] for x in self.solver.latents(state))

    def moved(self, state: State, latents: State) -> State:
        sources = [x.chunk(2)[0] for x in self.solver.latents(state)]
        return self.solver.moved(state, tuple(torch.cat(pair) for pair in zip(sources, latents, strict=True)))
