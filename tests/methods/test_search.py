"""Search without a gradient: within its budget, never worse than the plain image, and on where it stopped."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chainrule import UserError, sample
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.losses import Call
from chainrule.memory import Plan
from chainrule.methods import Plain, Search, Task
from chainrule.methods.chains import generate
from chainrule.methods.chunking import finish
from chainrule.methods.particles import resample, weigh
from chainrule.methods.search import KEPT, Sought, draw_noise
from chainrule.models import Codec
from chainrule.runs import count_passes
from conftest import Gaussian, scaled_linear, tiny_model
from tiny import load_once

pytestmark = pytest.mark.usefixtures("without_graphs")
WAYS = ("halving", "moves", "particles")
over_ways = pytest.mark.parametrize("by", WAYS)


@pytest.fixture
def without_graphs() -> Any:
    with torch.no_grad():
        yield


def distance(images: Tensor) -> Tensor:
    return (images - 0.6).square().mean(dim=(1, 2, 3))


def tiny(seeds: tuple[int, ...] = (0, 1, 2)) -> Task:
    model = tiny_model()
    return Task(model, model.denoiser("a prompt"), seeds, Call(distance, "distance"))


def search(by: str, budget: int = 80, **settings: Any) -> Search:
    return Search(by=by, budget=budget, **({"steps": 4} | settings))


def states(method: Search, task: Task) -> list[Sought]:
    return list(method.run(method.prepare(task)))


# --- the budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [5, 9, 10, 23, 47, 80])
@over_ways
def test_the_budget_is_kept_and_spent(by: str, budget: int) -> None:
    """Guided: each network pass and each image that is judged is counted."""
    looks: list[int] = []

    def judge(images: Tensor) -> Tensor:
        looks.append(len(images))
        return distance(images)

    model, passes = count_passes(load_once("scenes" if budget == 23 else "Stable Diffusion 1.x"))
    task = Task(model, model.denoiser("a red shape", guidance_scale=2.0), (0, 1), Call(judge))
    method = search(by, budget)
    found = states(method, task)
    spent = passes.total / 2 / 2 + sum(looks) / 2
    assert passes.backward == 0
    assert spent <= budget
    another = {"halving": 5 + 2 + 3, "moves": 5, "particles": 4 + len(method.stops)}[by]
    assert spent > budget - another  # there is no room for one more
    assert found[-1].iteration == len(found) == method.count_iterations(task)
    method.result(task, found[-1])
    assert passes.total / 4 + sum(looks) / 2 == spent  # what was judged is not judged again


@settings(max_examples=200, deadline=None)
@given(
    by=st.sampled_from(WAYS),
    steps=st.integers(1, 60),
    looks=st.integers(1, 70),
    more=st.integers(0, 4000),
)
def test_any_budget_is_kept(by: str, steps: int, looks: int, more: int) -> None:
    """As its settings plan it, which the test above compares with what is spent."""
    only = {"looks": looks} if by == "particles" else {}
    method = search(by, steps + 1 + more, steps=steps, **only)
    planned = {
        "halving": sum((each + 1) * size for each, size in method.rungs),
        "moves": (method.draws - 1) * (steps + 1),
        "particles": method.particles * (steps + len(method.stops)),
    }
    assert 0 <= planned[by] <= more
    assert method.stops[-1] == steps
    if by == "particles":
        assert max(1, min(looks, steps) - 1) <= len(method.stops) <= looks
        assert steps - 1 not in method.stops or steps == 1


def test_a_great_budget_is_planned_at_once() -> None:
    assert search("halving", 10**12).rungs[0][1] > 10**10


@over_ways
def test_a_budget_below_a_plain_image_is_refused(by: str) -> None:
    with pytest.raises(UserError, match="a plain image takes 5 passes, and the budget is 4") as no:
        search(by, 4)(tiny())
    assert no.value.field == "budget"
    assert "raise the budget" in no.value.cure
    assert search(by, 5)(tiny()).images.shape[0] == 3


@pytest.mark.parametrize(
    ("by", "given", "name"),
    [
        ("halving", {"reach": 0.3}, "reach"),
        ("halving", {"looks": 3}, "looks"),
        ("moves", {"sharpness": 1.0}, "sharpness"),
        ("particles", {"searched": 0.5}, "searched"),
    ],
)
def test_what_another_way_would_heed_is_refused(by: str, given: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=f"{name} has no effect on search by {by}"):
        search(by, **given)


# --- what holds for every way ---------------------------------------------------------------------


@over_ways
def test_it_begins_at_the_plain_image_and_never_gets_worse(by: str) -> None:
    found, plain = states(search(by), tiny()), Plain(steps=4)(tiny())
    assert torch.equal(found[0].latents, plain.latents)
    assert torch.equal(found[0].losses, plain.losses)
    for before, after in itertools.pairwise(found):
        assert (after.losses <= before.losses).all()
    assert (found[-1].losses < plain.losses).any()
    shown = search(by).result(tiny(), found[-1])
    torch.testing.assert_close(distance(shown.images), shown.losses)


@pytest.mark.parametrize("by", ["halving", "moves"])
def test_its_noise_makes_its_image_again(by: str) -> None:
    task = tiny()
    found = search(by)(task)
    torch.testing.assert_close(sample(task.denoiser, found.x_T, 4), found.latents)


@over_ways
def test_it_goes_on_where_it_stopped_bit_for_bit(by: str) -> None:
    method, task = search(by), tiny()
    whole = states(method, task)
    for stopped in (*whole[:3], whole[len(whole) // 2], whole[-2]):
        kept = {name: value.clone() for name, value in stopped.tensors().items()}
        again = Sought.from_tensors(kept)
        method.require_own(task, again)
        rest = list(method.run(task, again))
        assert len(rest) == len(whole) - stopped.iteration
        for name, value in whole[-1].tensors().items():
            assert torch.equal(rest[-1].tensors()[name], value), name


@over_ways
def test_an_image_depends_on_its_seed_alone(by: str) -> None:
    together, alone = search(by)(tiny()), search(by)(tiny((1,)))
    apart = search(by)(tiny().under(Plan(batch_size=1)))
    torch.testing.assert_close(together.latents[1:2], alone.latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.latents, apart.latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [None, 1])
@over_ways
def test_its_bars_move(by: str, size: int | None) -> None:
    told: list[tuple[int, int]] = []
    search(by)(tiny().under(Plan(batch_size=size)), lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1]
    for (before, of), (after, of_next) in itertools.pairwise(told):
        assert after == (1 if before == of else before + 1)
        assert of == of_next or before == of or (after == before + 1 and by == "moves")


# --- halving --------------------------------------------------------------------------------------


def test_rungs_nest_and_the_better_third_goes_on() -> None:
    method = search("halving", 200, steps=8)
    assert [length for length, _ in method.rungs] == [2, 4, 8]
    for (_, size), (_, later) in zip(method.rungs[:-1], method.rungs[1:], strict=True):
        assert later == math.ceil(size / KEPT)
    found, task = states(method, tiny()), tiny()
    ends = [
        each for each in found if each.scores is not None and len(each.scores) == len(each.origins)
    ]
    assert [len(each.origins) for each in ends] == [size for _, size in method.rungs]
    for one, next_ in itertools.pairwise(ends):
        for row in range(3):
            order = one.scores[:, row].argsort()[: len(next_.origins)]
            assert next_.origins[:, row].tolist() == one.origins[order, row].tolist()
    for (length, _), end in zip(method.rungs, ends, strict=True):  # each rung's losses are its own
        for k in (0, -1):
            drawn = finish(task, generate(task, draw_noise(task, end.origins[k]), length))
            torch.testing.assert_close(drawn.losses, end.scores[k])
    assert torch.equal(ends[-1].losses, torch.minimum(found[0].losses, ends[-1].scores.amin(dim=0)))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_where_all_lengths_are_one_there_is_one_rung(steps: int) -> None:
    lengths = [length for length, _ in search("halving", 200, steps=steps).rungs]
    assert lengths == sorted({1, max(1, steps // 2), steps})


# --- moves ----------------------------------------------------------------------------------------


class Affine(Codec):
    """Images are 0.5 + latents / 50: nothing is clamped."""

    latent_shape = (3, 2, 2)
    factor = multiple = 1

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        return 0.5 + latents / 50

    def encode(self, images: Tensor) -> Tensor:
        return (images - 0.5) * 50


def quadratic(images: Tensor) -> Tensor:
    return ((images - 0.5) * 50 - 1).square().flatten(1).sum(dim=1)


def gaussian(seeds: int = 32) -> Task:
    """Twelve numbers, an affine chain: the loss is a quadratic of the noise."""
    denoiser = Gaussian(torch.zeros(1, 3, 2, 2), 1.0, scaled_linear())
    model = replace(tiny_model(), codec=Affine())
    return Task(model, denoiser, tuple(range(seeds)), Call(quadratic))


def test_moves_beat_draws_at_equal_cost() -> None:
    moved = search("moves", 400, steps=1)(gaussian()).losses
    drawn = search("moves", 400, steps=1, searched=1.0)(gaussian()).losses
    assert moved.mean() < 0.5 * drawn.mean()
    assert (moved < drawn).float().mean() > 0.9


def test_reach_follows_the_one_fifth_rule() -> None:
    method = search("moves", 400, steps=1)
    found = states(method, gaussian())
    first = round(0.3 * method.draws)
    for before, after in zip(found[first - 1 : -1], found[first:], strict=True):
        better = after.losses < before.losses
        wanted = before.reach * torch.where(better, 1.5, 1.5**-0.25)
        torch.testing.assert_close(after.reach, wanted.clamp(0.02, 1.0))
    assert all(each.reach is None or (each.reach == 0.5).all() for each in found[:first])
    assert found[-1].reach.max() < 0.3  # near the optimum steps are short
    still = states(search("moves", 900, steps=1, reach=0.03), tiny())[-1]
    assert (still.reach >= 0.02).all()


def test_moves_keep_noise_noise() -> None:
    """With a loss that takes every one of them, the last is as likely as a draw."""
    calls = itertools.count()
    falling = Call(lambda images: torch.full((len(images),), -float(next(calls))))
    task = replace(gaussian(256), loss=falling)
    found = states(search("moves", 60, steps=1, searched=0.0, reach=0.3), task)
    assert not torch.equal(found[-1].x_T, found[-2].x_T)
    norms = found[-1].x_T.square().flatten(1).sum(dim=1)
    assert abs(norms.mean() - 12) < 4 * (24 / 256) ** 0.5  # of twelve numbers: chi-square


# --- particles ------------------------------------------------------------------------------------


@given(
    count=st.integers(1, 40),
    images=st.integers(1, 4),
    seed=st.integers(0, 1000),
    sharp=st.floats(0, 30),
)
@settings(max_examples=100, deadline=None)
def test_systematic_resampling_is_within_one(
    count: int, images: int, seed: int, sharp: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    weights = (sharp * torch.rand(count, images, generator=draw).double()).softmax(dim=0)
    index = resample(weights, torch.rand(images, generator=draw))
    assert index.shape == weights.shape
    for row in range(images):
        counts = torch.bincount(index[:, row], minlength=count)
        assert ((counts - count * weights[:, row]).abs() < 1 + 1e-6).all()


def test_with_lambda_0_weights_are_equal_and_each_goes_on() -> None:
    losses = torch.rand(6, 2)
    for lows in (torch.full((6, 2), torch.inf), torch.rand(6, 2)):
        weights = weigh(lows, losses, 0.0)
        assert torch.equal(weights, torch.full((6, 2), 1 / 6, dtype=torch.float64))
    assert torch.equal(
        resample(weights, torch.tensor([0.3, 0.9])), torch.arange(6)[:, None].expand(6, 2)
    )
    found = states(search("particles", sharpness=0.0), tiny())
    kept = torch.arange(1, search("particles").particles + 1)[:, None].expand(-1, 3)
    assert all(torch.equal(each.origins, kept) for each in found[1:])


def test_the_product_of_a_particles_potentials_is_that_of_its_best() -> None:
    """exp(lambda max r) over the image's mean, whatever the number of looks."""
    draw = torch.Generator().manual_seed(0)
    lows, log = torch.full((5, 2), torch.inf), torch.zeros(5, 2, dtype=torch.float64)
    for _ in range(4):
        losses = torch.rand(5, 2, generator=draw)
        log += weigh(lows, losses, 3.0).log()
        lows = torch.minimum(lows, losses)
    expected = (-3.0 * lows.double()).log_softmax(dim=0)
    torch.testing.assert_close(log.log_softmax(dim=0), expected)


def test_with_a_strong_lambda_the_lowest_loss_multiplies() -> None:
    method = search("particles", sharpness=1e6)
    first = states(method, tiny())[1]
    calm = states(search("particles", sharpness=0.0), tiny())[1]  # the same, and nobody has left
    assert method.particles > 3
    for row in range(3):
        best = calm.scores[:, row].argmin()
        assert (first.origins[:, row] == calm.origins[best, row]).all()
        assert (first.particles[:, row] == calm.particles[best, row]).all()


def test_particles_that_are_equal_part_again() -> None:
    found = states(search("particles", sharpness=1e6), tiny())
    assert (found[1].particles.std(dim=0) == 0).all()
    assert (found[2].particles.std(dim=0).sum() > 0) or (found[3].particles.std(dim=0).sum() > 0)
    assert found[-1].particles.unique(dim=0).shape[0] > 1  # there is noise after every look


def test_particles_are_ddpms_without_a_look() -> None:
    """One look, at the end: nobody leaves, and each is a DDPM chain of its own noise."""
    task, method = tiny(), search("particles", looks=1)
    last = states(method, task)[-1]
    for j in (0, method.particles - 1):
        solver = DDPM(task.noise.stream("search/particles"), first=4 * j)
        expected = sample(task.denoiser, task.noise.normal(j + 1, (2, 4, 4)), 4, solver=solver)
        torch.testing.assert_close(last.particles[j], expected)
    plain = states(method, task)[0]
    assert torch.equal(last.losses, torch.minimum(plain.losses, last.scores.amin(dim=0)))


def test_particles_follow_the_loss() -> None:
    """Of the images that are left, not of the best one: they are drawn where losses are low."""
    sharp, calm = (
        states(search("particles", 400, sharpness=each), tiny(tuple(range(8))))[-1]
        for each in (300.0, 0.0)
    )
    worth = [
        torch.stack([distance(tiny().model.decode(x)) for x in each.particles]).mean()
        for each in (sharp, calm)
    ]
    assert worth[0] < 0.9 * worth[1]


def test_a_loss_needs_no_gradient() -> None:
    """It may count, round or ask somebody else."""
    loss = Call(lambda images: (images > 0.7).float().sum(dim=(1, 2, 3)))
    for by in WAYS:
        plain, found = (
            Plain(steps=4)(replace(tiny(), loss=loss)),
            search(by)(replace(tiny(), loss=loss)),
        )
        assert (found.losses <= plain.losses).all()
        assert (found.losses < plain.losses).any()
