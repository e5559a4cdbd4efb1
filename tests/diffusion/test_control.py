"""Inside the network: what a target takes from its source, and that all is afterwards as before."""

from __future__ import annotations

import pytest
import torch
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
