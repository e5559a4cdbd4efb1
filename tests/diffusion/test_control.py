"""Inside the network: what a target takes from its source, and that all is afterwards as before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import chainrule
from chainrule import UserError, sample
from chainrule.diffusion.control import (
    Alignment,
    AttentionEdit,
    Blend,
    Bottleneck,
    Maps,
    PairedDenoiser,
    Pairing,
    Shift,
    Towards,
    align,
)
from chainrule.diffusion.control.attention import AlignmentName, match_globally, match_longest
from chainrule.diffusion.control.bottleneck import bottleneck
from chainrule.diffusion.guidance import OneStep
from chainrule.diffusion.solvers import DDPM
from chainrule.losses import Call
from chainrule.noise import Noise
from conftest import TinyNetwork, conditioned, latents
from tiny import family

SHOWN = ["START", "a", "red", "circle", "on", "white", "END", "END", "END"]


def sources(found: Alignment, target: list[str]) -> list[str]:
    """Whose map each token of the target takes; its own if it is not borrowed."""
    across, borrowed = found.across[0], found.borrowed[0]
    named = []
    for k, token in enumerate(target):
        from_ = [SHOWN[j] for j in across[:, k].nonzero().flatten().tolist()]
        named.append("+".join(from_) if borrowed[k] else f"({token})")
    return named


def test_a_swapped_word_looks_where_the_old_one_did() -> None:
    target = ["START", "a", "blue", "circle", "on", "white", "END", "END", "END"]
    assert sources(align(SHOWN, target), target) == SHOWN
    assert sources(align(SHOWN, target, replaced=False), target) == [
        *SHOWN[:2],
        "(blue)",
        *SHOWN[3:],
    ]


def test_a_new_word_looks_for_itself() -> None:
    target = ["START", "a", "striped", "red", "circle", "on", "white", "END", "END"]
    assert sources(align(SHOWN, target), target) == ["START", "a", "(striped)", *SHOWN[2:8]]


def test_a_word_of_several_tokens_shares_the_map_of_the_one_it_replaces() -> None:
    target = ["START", "a", "tur", "quoise", "circle", "on", "white", "END", "END"]
    found = align(SHOWN, target)
    assert sources(found, target)[2:4] == ["red", "red"]
    assert found.across[0, 2].tolist() == [0, 0, 0.5, 0.5, 0, 0, 0, 0, 0]
    equal = align(SHOWN, SHOWN)
    assert torch.equal(equal.across[0], torch.eye(9))
    assert equal.borrowed.all()


Pairs = list[tuple[int, int]]
words = st.lists(st.sampled_from("abc"), max_size=5)


def every_alignment(source: Sequence[str], target: Sequence[str]) -> Iterator[Pairs]:
    """All ways to pair some tokens of both without crossing."""
    for size in range(min(len(source), len(target)) + 1):
        for chosen in combinations(range(len(source)), size):
            for others in combinations(range(len(target)), size):
                yield list(zip(chosen, others, strict=True))


def score(source: Sequence[str], target: Sequence[str], pairs: Pairs) -> int:
    """1 for each pair of equal tokens, -1 for each of others, nothing for a token left alone."""
    return sum(1 if source[i] == target[k] else -1 for i, k in pairs)


@given(source=words, target=words)
def test_the_global_alignment_has_the_best_score_of_all(
    source: list[str], target: list[str]
) -> None:
    found = match_globally(source, target)
    scores = {tuple(p): score(source, target, p) for p in every_alignment(source, target)}
    assert scores[tuple(found)] == max(scores.values())
    assert all(source[i] == target[k] for i, k in found)


@given(source=words, target=words)
def test_the_longest_run_is_common_but_need_not_be_the_best(
    source: list[str], target: list[str]
) -> None:
    found, best = match_longest(source, target), match_globally(source, target)
    assert found == sorted(found)
    assert all(source[i] == target[k] for i, k in found)
    assert len(found) <= len(best)


def test_of_equally_good_alignments_it_is_the_one_that_is_traced_back_from_the_end() -> None:
    """A token of the target is left out first, then one of the source."""
    assert match_globally("baa", "aba") == [(0, 1), (1, 2)]
    assert match_globally("a", "aa") == [(0, 0)]
    assert match_globally("aa", "a") == [(0, 0)]
    assert match_globally("ab", "ba") == [(1, 0)]


def test_a_long_run_can_be_in_the_way_of_more() -> None:
    source, target = list("klabc"), list("aubvckl")
    assert match_globally(source, target) == [(2, 0), (3, 2), (4, 4)]
    assert match_longest(source, target) == [(0, 5), (1, 6)]
    for by, borrowed in (("global", 3), ("longest", 2)):
        assert align(source, target, replaced=False, by=by).borrowed.sum() == borrowed


@pytest.mark.parametrize(("by", "match"), [("global", match_globally), ("longest", match_longest)])
@given(source=words, target=words)
def test_tokens_in_the_place_of_others_share_their_maps(
    by: AlignmentName, match: Callable[..., Pairs], source: list[str], target: list[str]
) -> None:
    """One by one where they are as many; else each of n takes an nth of all that it replaces."""
    kept, changed = (align(source, target, replaced=flag, by=by) for flag in (False, True))
    across, borrowed = torch.zeros(len(source), len(target)), torch.zeros(len(target))
    pairs = match(source, target)
    for i, k in pairs:
        across[i, k] = borrowed[k] = 1.0
    assert torch.equal(kept.across[0], across)
    assert torch.equal(kept.borrowed[0], borrowed)
    ends = [(-1, -1), *pairs, (len(source), len(target))]
    for (i, k), (j, last) in pairwise(ends):
        gone, new = list(range(i + 1, j)), list(range(k + 1, last))
        for n, place in enumerate(new):
            if len(gone) == len(new):
                across[gone[n], place] = 1.0
            else:
                across[gone, place] = 1.0 / len(new)
            borrowed[place] = float(bool(gone))
    assert torch.equal(changed.across[0], across)
    assert torch.equal(changed.borrowed[0], borrowed)


def edit(**changes) -> AttentionEdit:
    alignment = Alignment(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[1.0, 0.0]]))
    settings = {
        "alignment": alignment,
        "cross": 500.0,
        "own": 700.0,
        "weights": torch.tensor([[2.0, 1.0]]),
    }
    return AttentionEdit(**(settings | changes))


def test_cross_attention_is_borrowed_and_weighted_until_its_time() -> None:
    source, target = torch.rand(3, 4, 9, 2), torch.rand(3, 4, 9, 2)
    found = edit()(source, target, 500.0, is_cross=True)
    torch.testing.assert_close(found, torch.stack([2 * source[..., 1], target[..., 1]], dim=-1))
    assert edit()(source, target, 499.0, is_cross=True) is target


def test_self_attention_is_borrowed_until_its_time_if_it_is_small() -> None:
    source, target = torch.rand(1, 1, 9, 9), torch.rand(1, 1, 9, 9)
    assert edit()(source, target, 700.0, is_cross=False) is source
    assert edit()(source, target, 699.0, is_cross=False) is target
    large = torch.rand(1, 1, 33**2, 1)
    assert edit()(large.clone(), large, 700.0, is_cross=False) is large


def test_maps_are_remembered_by_time() -> None:
    maps = Maps()
    maps.at |= {900.0: torch.ones(2, 3, 1, 1), 500.0: 3 * torch.ones(2, 3, 1, 1)}
    assert maps.mean(600.0).unique().tolist() == [1.0]
    assert maps.mean().unique().tolist() == [2.0]


def test_a_blend_is_where_either_prompts_words_look() -> None:
    maps = torch.zeros(2, 2, 8, 8)
    maps[0, 0, 0, 0] = maps[1, 1, 7, 7] = (
        1.0  # the source's first word looks above, the target's second below
    )
    maps[:, 1, 0, 7] = 0.1  # and others hardly
    blend = Blend(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1000.0)
    found = blend.mask(maps, torch.zeros(1, 4, 16, 16))[0, 0]
    assert found[0, 0]
    assert found[15, 15]
    assert not found[0, 15]
    assert found.sum() == 2 * 16  # a map's cell and its neighbours, each two latents wide


def test_the_network_is_as_it_was_afterwards() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x"))
    told = model.denoiser("a red circle", guidance_scale=2.0)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        before = told(x, 301.0)
        processors = [type(p) for p in model.network.module.attn_processors.values()]
        both = PairedDenoiser(
            told, model.denoiser("a blue circle", guidance_scale=2.0), edit_for(model)
        )
        both(torch.cat([x, x]), 301.0)
        with pytest.raises(UserError, match="the shift is"):
            Bottleneck(told, Shift(torch.zeros(1, 3, 1, 1)))(x, 301.0)
        after = told(x, 301.0)
    assert torch.equal(before.eps, after.eps)
    assert [type(p) for p in model.network.module.attn_processors.values()] == processors


def edit_for(model) -> AttentionEdit:
    tokens = model.text.tokens("a red circle")
    return AttentionEdit(align(tokens, tokens), 0.0, 0.0, torch.ones(1, len(tokens)))


def test_the_shift_moves_the_picture_and_not_the_noise() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x"))
    told, other = (
        model.denoiser(prompt, guidance_scale=2.0) for prompt in ("a red circle", "a blue square")
    )
    x, t = torch.randn(2, 4, 8, 8), 301.0
    with torch.no_grad():
        plain = told(x, t)
        shape = bottleneck(told, x, t).shape
        moved = Bottleneck(told, Shift(torch.ones(1, *shape[1:])))(x, t)
        assert torch.equal(moved.eps, plain.eps)
        assert (moved.x0 - plain.x0).abs().max() > 1e-3
        assert torch.equal(
            Bottleneck(told, Shift(torch.ones(1, *shape[1:])), stop=400.0)(x, t).x0, plain.x0
        )
        towards = Bottleneck(told, Towards(other))(x, t)
        assert (towards.x0 - plain.x0).abs().max() > 1e-4


def test_each_image_may_have_its_own_shift() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x"))
    told, x, t = model.denoiser("a red circle", guidance_scale=2.0), torch.randn(2, 4, 8, 8), 301.0
    with torch.no_grad():
        dh = torch.randn(2, *bottleneck(told, x, t).shape[1:])
        both = Bottleneck(told, Shift(dh))
        for i in range(2):
            torch.testing.assert_close(
                both.select([i])(x[i : i + 1], t).x0, both(x, t).x0[i : i + 1], rtol=1e-4, atol=1e-4
            )


def test_what_is_no_module_of_diffusers_is_refused() -> None:
    denoiser, x = conditioned(TinyNetwork()), latents()
    one = denoiser.select([0])
    for ask in (
        lambda: bottleneck(denoiser, x, 3.0),
        lambda: PairedDenoiser(one, one, edit())(x, 3.0),
    ):
        with pytest.raises(UserError, match="not a module of diffusers"):
            ask()


def test_prompts_that_are_guided_differently_are_refused() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x"))
    guided, free = (model.denoiser("a red circle", guidance_scale=scale) for scale in (2.0, 1.0))
    pushed = OneStep(guided, model.decode, Call(lambda images: images.mean(dim=(1, 2, 3))), 1.0)
    stronger = model.denoiser("a red circle", guidance_scale=5.0)
    for one, other in ((guided, free), (guided, pushed), (guided, stronger)):
        with pytest.raises(UserError, match="guided alike"):
            PairedDenoiser(one, other, edit_for(model))(torch.randn(2, 4, 8, 8), 3.0)


def test_maps_that_are_all_large_are_remembered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chainrule.diffusion.control.attention.LARGEST_REMEMBERED", 2)
    model = chainrule.load(family("Stable Diffusion 1.x"))
    told, edit = model.denoiser("a red circle"), edit_for(model)
    with torch.no_grad():
        PairedDenoiser(told, told, edit)(torch.randn(2, 4, 8, 8), 3.0)
    assert edit.maps.mean().shape[2:] in ((4, 4), (8, 8))


def test_a_direction_between_prompts_that_are_guided_differently_is_refused() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x"))
    guided, free = (model.denoiser("a red circle", guidance_scale=scale) for scale in (2.0, 1.0))
    with pytest.raises(UserError, match="guided alike"):
        Bottleneck(guided, Towards(free))(torch.randn(1, 4, 8, 8), 3.0)


def test_a_pair_needs_a_solver_without_noise() -> None:
    with pytest.raises(UserError, match="a deterministic solver, not DDPM"):
        Pairing(edit()).on(DDPM(Noise((0,)).stream("ddpm")))


def test_a_pair_of_chains_starts_at_one_noise() -> None:
    model = chainrule.load(family("Stable Diffusion 1.x"))
    told = model.denoiser("a red circle")
    seen: list[Tensor] = []

    class Watched(PairedDenoiser):
        def __call__(self, x: Tensor, t: float):
            seen.append(x)
            return super().__call__(x, t)

    solver = Pairing(edit_for(model)).on(chainrule.DDIM())
    with torch.no_grad():
        x_T = model.noise([0, 1])
        sample(Watched(told, told, edit_for(model)), x_T, model.schedule.times(2), solver=solver)
    assert torch.equal(seen[0], torch.cat([x_T, x_T]))
