"""Guided search, then the exact gradient: within its budget, and no worse than anything it found."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import UserError, sample
from chainrule.diffusion.constraints import fill_in
from chainrule.losses import Call
from chainrule.memory import Plan
from chainrule.methods import Hybrid, Photo, Plain, Task, constrain_to_mask
from chainrule.methods.base import PRESETS, SEARCH, Situation
from chainrule.methods.best_of import Best
from chainrule.methods.chains import generate
from chainrule.methods.hybrid import HybridState
from chainrule.models import Model
from chainrule.noise import Noise
from chainrule.optimise import Adam
from chainrule.runs import count_passes
from conftest import tiny_model
from tiny import load_once


def distance(images: Tensor) -> Tensor:
    return (images - 0.6).square().mean(dim=(1, 2, 3))


def tiny(seeds: tuple[int, ...] = (0, 1, 2)) -> Task:
    model = tiny_model()
    return Task(model, model.denoiser("a prompt"), seeds, Call(distance, "distance"))


def hybrid(budget: int = 150, **settings: Any) -> Hybrid:
    return Hybrid(budget=budget, **({"steps": 4, "searched": 0.5} | settings))


def states(method: Hybrid, task: Task) -> list[HybridState]:
    return list(method.run(method.prepare(task)))


# --- the budget -----------------------------------------------------------------------------------


@dataclass
class Looks:
    """How many images were decoded, forwards and backwards."""

    seen: int = 0

    def watch(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        kind, looks = type(model.codec), self
        decode = kind.decode

        def decoded(self: Any, latents: Tensor, *rest: Any, **named: Any) -> Tensor:
            images = decode(self, latents, *rest, **named)
            looks.seen += len(images)
            if images.requires_grad:
                images.register_hook(looks.count)
            return images

        monkeypatch.setattr(kind, "decode", decoded)

    def count(self, gradient: Tensor) -> None:
        self.seen += len(gradient)


@pytest.mark.parametrize(
    ("name", "budget", "settings"),
    [
        ("scenes", 50, {}),
        *[
            ("tiny", budget, settings)
            for budget in (5, 10, 14, 30, 100, 300, 700)
            for settings in (
                {},
                {"like": "strong"},
                {"searched": 0.0},
                {"searched": 1.0},
                {"last": 1},
                {"solve": 3},
            )
        ],
    ],
)
def test_the_budget_is_kept(
    name: str, budget: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pass of the network and each image that is looked at is counted, both ways."""
    model, passes = count_passes(tiny_model() if name == "tiny" else load_once(name))
    looks = Looks()
    looks.watch(model, monkeypatch)
    denoiser = model.denoiser("a red shape", guidance_scale=2.0)
    task, method = Task(model, denoiser, (0, 1), Call(distance)), hybrid(budget, **settings)
    with torch.no_grad():
        found = states(method, task)
    spent = passes.total / 2 / 2 + looks.seen / 2
    assert spent <= budget
    assert len(found) == found[-1].iteration == method.count_iterations(task)
    plain, iteration = 4 + 1, 3 * 4 + 2
    if method.split(task).iterations:
        assert spent > budget - iteration
    elif budget > plain + method.guide.passes:
        assert spent > budget - method.guide.passes
    assert not (settings.get("searched") == 1.0 and method.split(task).iterations)
    assert spent >= plain


def test_a_budget_below_a_plain_image_is_refused() -> None:
    with pytest.raises(UserError, match="a plain image takes 5 passes, and the budget is 4") as no:
        hybrid(4)(tiny())
    assert no.value.field == "budget"
    assert torch.equal(hybrid(5)(tiny()).latents, Plain(steps=4)(tiny()).latents)


def test_guided_draws_begin_at_the_best_noise_of_short_ones() -> None:
    method, task = hybrid(300, searched=1.0), tiny()
    found, split = states(method, task), method.split(task)
    scores = found[-1].scores
    assert scores.shape == (split.short, 3)
    for k in range(split.short):
        z = task.noise.normal(k + 1, task.model.codec.latent_shape)
        shown = task.model.decode(generate(task, z, 1).latents)
        torch.testing.assert_close(scores[k], distance(shown))
    order = scores.argsort(dim=0)
    first = found[split.short + 1]
    for i, seed in enumerate(task.seeds):
        z = Noise((seed,)).normal(int(order[0, i]) + 1, task.model.codec.latent_shape)
        guided = method.guide.walk(task.select([i]), z)
        judged = distance(task.model.decode(guided.latents))
        assert first.best_losses[i] <= judged + 1e-5


# --- what it delivers -----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"like": "strong"}, {"optimiser": Adam(rate=10.0)}])
def test_nothing_that_was_found_is_lost(settings: dict[str, Any]) -> None:
    """A rate that throws the noise about, too, costs nothing that there was."""
    found, method = states(hybrid(**settings), tiny()), hybrid(**settings)
    plain = Plain(steps=4)(tiny())
    torch.testing.assert_close(found[0].best_latents, plain.latents)
    torch.testing.assert_close(found[0].best_losses, plain.losses)
    for before, after in itertools.pairwise(found):
        assert (after.best_losses <= before.best_losses).all()
    for state in found:
        shown = method.result(tiny(), state)
        assert (shown.losses <= plain.losses).all()
        torch.testing.assert_close(distance(shown.images), shown.losses)


def test_each_part_improves_what_the_one_before_left() -> None:
    method = hybrid(300, screened=0.3)
    found = states(method, tiny())
    split = method.split(tiny())
    assert split.short > 2
    assert split.guided > 1
    assert split.iterations > 2
    searched = found[split.draws - 1]
    assert (searched.best_losses < found[0].best_losses).all()
    assert (found[-1].best_losses < searched.best_losses).any()


def test_the_noise_that_is_found_leads_to_about_the_best_draw() -> None:
    method, task = hybrid(300, steps=20), tiny()
    found = states(method, task)
    draws = method.split(task).draws
    searched, first = found[draws - 1], found[draws]
    best = searched.best_latents
    z = method.find_noise(task, Best(best, searched.best_x_T[0], losses=searched.best_losses))
    again = sample(task.denoiser, z, 20)
    plain = sample(task.denoiser, task.x_T, 20)
    assert (again - best).norm() < 0.2 * (plain - best).norm()
    losses = first.terms[0].sum(dim=0)
    torch.testing.assert_close(losses, distance(task.model.decode(again)), rtol=1e-4, atol=1e-5)


def test_what_is_optimised_leads_to_its_image_again() -> None:
    """Of the images that the gradient improved; a guided one is not its noise's alone."""
    method, task = hybrid(300, screened=0.3), tiny()
    found = states(method, task)
    improved = found[-1].best_losses < found[method.split(task).draws - 1].best_losses
    again = sample(task.denoiser, found[-1].best_x_T[0], 4)
    torch.testing.assert_close(again[improved], found[-1].best_latents[improved])
    assert improved.any()


def test_it_stops_where_every_image_is_good_enough() -> None:
    whole = states(hybrid(), tiny())
    draws = hybrid().split(tiny()).draws
    easy = float(whole[0].best_losses.max())
    assert len(states(hybrid(target=easy), tiny())) == 1
    middle = float(whole[draws + 1].best_losses.max())
    some = states(hybrid(target=middle), tiny())
    assert 1 < len(some) < len(whole)
    assert (some[-1].best_losses <= middle).all()
    assert not (some[-2].best_losses <= middle).all()
    hard = states(hybrid(target=-1.0), tiny())
    assert len(hard) == len(whole)


def test_it_goes_on_where_it_stopped_bit_for_bit() -> None:
    method, task = hybrid(), tiny()
    whole = states(method, task)
    for stopped in whole:
        again = HybridState.from_tensors({k: v.clone() for k, v in stopped.tensors().items()})
        method.require_own(task, again)
        rest = list(method.run(task, again))
        assert len(rest) == len(whole) - stopped.iteration
        for name, value in whole[-1].tensors().items():
            assert torch.equal((rest or [again])[-1].tensors()[name], value), name


def test_an_image_depends_on_its_seed_alone() -> None:
    together, alone = hybrid()(tiny()), hybrid()(tiny((1,)))
    apart = hybrid()(tiny().under(Plan(batch_size=1)))
    torch.testing.assert_close(together.latents[1:2], alone.latents, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(together.latents, apart.latents, rtol=1e-3, atol=1e-3)


def test_it_says_where_it_is() -> None:
    method, task = hybrid(300), tiny()
    split = method.split(task)
    draws, iterations = split.draws, split.iterations
    assert method.stage(task, draws) == (draws, draws, SEARCH)
    assert method.stage(task, draws + 1) == (1, iterations, "iteration")
    assert method.stage(task, method.count_iterations(task))[:2] == (iterations, iterations)


def test_it_needs_a_loss() -> None:
    with pytest.raises(UserError, match="hybrid needs a loss"):
        hybrid()(replace(tiny(), loss=None))


def test_a_budget_for_the_plain_image_alone_says_so() -> None:
    task = tiny()
    least = 5 + hybrid(100).guide.passes
    with pytest.warns(UserWarning, match=f"spent on the plain image: .* needs {least}"):
        hybrid(least - 1).prepare(task)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hybrid(least).prepare(task)
    assert hybrid(least).split(task) == (0, 1, 0)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("loss", "like"), [("picture", "strong"), ("image", "gentle")])
def test_every_preset_guides_as_the_loss_wants(name: str, loss: str, like: str) -> None:
    assert Hybrid(**Hybrid.preset(Situation(name, loss))).like == like


# --- photos ---------------------------------------------------------------------------------------


def of_photo(mask: Tensor | None = None) -> Task:
    one = tiny((0, 1))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    edited = replace(one, photo=Photo(images, one.denoiser, (8, 8), mask))
    return edited if mask is None else constrain_to_mask(edited)


@pytest.mark.parametrize("masked", [False, True])
def test_a_photo_is_what_it_begins_with(masked: bool) -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1.0
    task, method = of_photo(mask if masked else None), hybrid(300)
    found, split = states(method, task), method.split(of_photo())
    z = task.model.encode(task.require_photo().images)
    torch.testing.assert_close(found[0].best_latents, z)
    assert split.short == 0
    assert split.guided > 1
    assert split.iterations > 1
    assert (found[-1].best_losses < found[0].best_losses).all()
    for before, after in itertools.pairwise(found):
        assert (after.best_losses <= before.best_losses).all()
    moved = (found[-1].best_latents - z).abs()
    if masked:
        kept = task.model.encode(fill_in(task.require_photo().images, mask))
        torch.testing.assert_close(found[-1].best_latents[..., 2:], kept[..., 2:])
    else:
        assert moved[..., 2:].max() > 1e-2
    assert moved[..., :2].max() > 1e-2


@pytest.mark.parametrize("budget", [1, 12, 40, 100, 300])
@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
@pytest.mark.filterwarnings("ignore:a budget of")
def test_the_budget_of_a_photo_is_kept(
    budget: int, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, passes = count_passes(tiny_model())
    looks = Looks()
    looks.watch(model, monkeypatch)
    images, denoiser = torch.rand(1, 3, 8, 8), model.denoiser("a", guidance_scale=2.0)
    photo = Photo(images, denoiser, (8, 8))
    task = Task(model, denoiser, (0,), Call(distance), photo)
    method = hybrid(budget, strength=strength)
    with torch.no_grad():
        found = states(method, task)
    assert passes.total / 2 + looks.seen <= budget
    assert len(found) == method.count_iterations(task)


def test_a_budget_for_the_photo_alone_says_so() -> None:
    with pytest.warns(UserWarning, match="spent on the photo as it is: a guided draw .* needs"):
        hybrid(3).prepare(of_photo())
