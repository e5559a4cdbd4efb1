"""DOODL against Algorithm 1 written out by hand, and what a run promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import EDICT, Backprop, UserError, sample, sample_state
from chainrule.diffusion.solvers.base import State as Latents
from chainrule.losses import Brightness, Call, Cutouts, Loss, Symmetry, Target
from chainrule.memory import Plan
from chainrule.methods import (
    DOODL,
    METHODS,
    Adam,
    BestOf,
    DOODLState,
    Momentum,
    OneStepGuidance,
    Photo,
    Plain,
    Result,
    Situation,
    Task,
)
from chainrule.methods.base import PRESETS
from chainrule.methods.doodl import CROPS, PERTURBATION
from conftest import tiny_model
from tiny import load_once

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")


def target() -> Loss:
    """Bright at the top, dark at the bottom."""
    wanted = torch.linspace(1, 0, 8)[:, None]
    return Call(lambda images: (images - wanted).square().mean(dim=(1, 2, 3)))


def task(seeds: tuple[int, ...] = (0, 1), loss: Loss | None = None) -> Task:
    model = tiny_model()
    return Task(model, model.denoiser("a prompt"), seeds, loss or target())


def states(method: DOODL, job: Task, x_T: Tensor | Latents | None = None) -> list[DOODLState]:
    """The states after each iteration, from the noise `x_T`."""
    return list(method.run(job, method.start(job, x_T)))


def test_two_iterations_are_algorithm_1() -> None:
    job = task()
    method = DOODL(iterations=2, steps=4, optimiser=Momentum(rate=5.0, clip=1e-2), crops=3)
    found = states(method, job)
    x_T = job.x_T
    radius, velocity = x_T.flatten(1).norm(dim=1), torch.zeros_like(x_T)
    noise = job.noise.stream(PERTURBATION)
    for i in range(2):
        x = x_T.clone().requires_grad_()
        pair = sample_state(
            job.denoiser,
            (x, x),
            job.model.schedule.times(4),
            solver=EDICT(0.93),
            gradient=Backprop(),
        )
        crops = Cutouts(target(), 3).replay(job.noise.stream(CROPS), i)
        loss = 0.5 * (crops(job.model.decode(pair[0])) + crops(job.model.decode(pair[1])))
        torch.testing.assert_close(found[i].history[i], loss.detach())
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        velocity = 0.9 * velocity + (-5.0 * gradient).clamp(-1e-2, 1e-2)
        x_T = x_T + velocity + 1e-2 * noise.normal(i, x_T.shape[1:])
        x_T = x_T * (radius / x_T.flatten(1).norm(dim=1))[:, None, None, None]
        torch.testing.assert_close(found[i].x_T, torch.stack([x_T, x_T]))
    assert len(found) == 3  # the noise after the last update is judged too
    assert found[2].x_T is found[1].x_T


def test_the_defaults_are_the_papers() -> None:
    method = DOODL()
    assert (method.steps, method.mix, method.crops, method.cut_power) == (50, 0.93, 16, 0.3)
    assert isinstance(method.optimiser, Momentum)
    assert (method.optimiser.clip, method.optimiser.momentum, method.perturbation) == (
        1e-3,
        0.9,
        1e-2,
    )
    assert method.renormalise


@pytest.mark.parametrize(
    "optimiser", [Momentum(rate=20.0, clip=0.05), Adam(rate=0.1)], ids=["momentum", "adam"]
)
@pytest.mark.parametrize("mix", [0.93, None], ids=["edict", "ddim"])
def test_the_loss_falls_and_the_best_is_kept(optimiser: Momentum | Adam, mix: float | None) -> None:
    job = task()
    method = DOODL(iterations=15, steps=5, optimiser=optimiser, mix=mix, crops=0)
    last = states(method, job)[-1]
    result, history = method.result(job, last), last.history
    assert (result.losses < 0.7 * history[0]).all()
    torch.testing.assert_close(result.losses, target()(result.images))
    if mix is None:  # EDICT's history is of the pair, its image is x_0
        assert torch.equal(result.losses, history.min(dim=0).values)
    torch.testing.assert_close(result.images, job.model.decode(result.latents))
    assert len(history) == 16
    assert torch.equal(result.history, history)


def test_the_best_is_chosen_by_the_whole_image_not_by_lucky_crops() -> None:
    job = task()
    method = DOODL(iterations=6, steps=3, optimiser=Adam(rate=0.3), mix=None, crops=1)
    found = states(method, job)
    still = DOODL(iterations=0, steps=3, mix=None, crops=0)
    tried = torch.stack([states(still, job, state.x_T[0])[-1].best_losses for state in found])
    first = Plain(steps=3)(job).losses
    torch.testing.assert_close(found[-1].best_losses, torch.minimum(first, tried.min(dim=0).values))


def test_each_image_is_optimised_as_if_alone() -> None:
    method = DOODL(iterations=3, steps=3, optimiser=Adam(rate=0.1), crops=2)
    together, alone = method(task((0, 5))), method(task((5,)))
    torch.testing.assert_close(together.latents[1:], alone.latents, rtol=1e-4, atol=1e-5)


def test_it_stops_early_when_every_image_is_good_enough() -> None:
    job = task()
    method = DOODL(iterations=9, steps=3, crops=0, mix=None)
    first = method.advance(job, method.start(job)).history[0].max().item()
    assert len(states(method.model_copy(update={"target": first}), job)) == 1


def test_no_iterations_give_the_plain_image() -> None:
    result = DOODL(iterations=0, steps=3, mix=None, crops=0)(task())
    torch.testing.assert_close(result.images, Plain(steps=3)(task()).images)


def test_a_loss_that_is_nan_says_where_and_what_to_do() -> None:
    job = task(
        (3, 4), Call(lambda images: images.mean(dim=(1, 2, 3)) * torch.tensor([1.0, torch.nan]))
    )
    with pytest.raises(UserError, match=r"nan in iteration 0 \(seed 4\): lower the rate"):
        DOODL(iterations=1, steps=2, crops=0)(job)


def test_a_gradient_that_is_not_finite_says_where() -> None:
    job = task(
        (3, 4), Call(lambda images: (images - images.detach()).square().sum(dim=(1, 2, 3)).sqrt())
    )
    with pytest.raises(UserError, match=r"the gradient is nan in iteration 0 \(seed 3\)"):
        DOODL(iterations=1, steps=2, crops=0)(job)


def test_best_of_keeps_the_best_draw_of_each_seed() -> None:
    job = task((0, 1, 2))
    single, many = BestOf(count=1, steps=3)(job), BestOf(count=6, steps=3)(job)
    torch.testing.assert_close(single.images, Plain(steps=3)(job).images)
    assert (many.losses <= single.losses).all()
    assert (many.losses < single.losses).any()
    two = BestOf(count=2, steps=3)(job)
    assert (many.losses < two.losses).any()  # the draws after the second are new ones
    torch.testing.assert_close(target()(many.images), many.losses)


def test_one_step_guidance_lowers_the_loss() -> None:
    assert (
        OneStepGuidance(scale=30.0, steps=20)(task()).losses < Plain(steps=20)(task()).losses
    ).all()


def test_it_may_start_at_the_best_of_several_draws() -> None:
    job, method = task(), DOODL(iterations=0, steps=3, mix=None, crops=0, start_of=5)
    torch.testing.assert_close(method(job).images, BestOf(count=5, steps=3)(job).images)


def test_an_image_that_is_good_enough_is_left_alone() -> None:
    method = DOODL(
        iterations=6, steps=3, mix=None, optimiser=Adam(rate=0.3), crops=0, perturbation=0.0
    )
    job = task((0, 1, 2))
    free = method(job)
    reached = free.history.cummin(dim=0).values  # (7, 3)
    enough = (
        reached[3, 0].item() + 1e-6
    )  # the first image gets there in its fourth iteration, if not before
    found = method.model_copy(update={"target": enough})(job)
    done = [
        int((reached[:, i] <= enough).nonzero()[0]) + 1 if reached[-1, i] <= enough else 7
        for i in range(3)
    ]
    for i, k in enumerate(done):
        torch.testing.assert_close(found.history[:k, i], free.history[:k, i])
        assert (found.history[k:, i] == found.history[k - 1, i]).all()
    assert min(done) < 7
    torch.testing.assert_close(
        found.losses, torch.stack([reached[k - 1, i] for i, k in enumerate(done)])
    )


def test_images_that_are_done_cost_nothing() -> None:
    job = task((0, 1, 2))
    shown: list[int] = []
    network = job.model.network
    ask = type(network).__call__

    class Counting(type(network)):
        def __call__(self, x: Tensor, t: float, conditioning: Sequence[Tensor]) -> Tensor:
            shown.append(len(x))
            return ask(self, x, t, conditioning)

    network.__class__ = Counting
    enough = job.require_loss()(Plain(steps=3)(job).images).max().item()
    method = DOODL(iterations=4, steps=3, mix=None, crops=0, target=enough)
    shown.clear()
    assert method(job).history.shape == (1, 3)
    assert sum(shown) == 3 * 2 * 3  # three steps of three guidance pairs: nothing was left to do


def test_the_best_is_drawn_with_more_steps_at_the_end_where_that_is_better() -> None:
    job = task()
    method = DOODL(iterations=3, steps=3, mix=None, optimiser=Adam(rate=0.1), final_steps=9)
    *_, before, after = states(method, job)
    assert not before.redrawn
    assert after.redrawn
    assert after.iteration == before.iteration
    again = sample(job.denoiser, before.best_x_T[0], job.model.schedule.times(9))
    drawn = job.require_loss()(job.model.decode(again))
    better = drawn < before.best_losses
    torch.testing.assert_close(
        after.best_latents, torch.where(better[:, None, None, None], again, before.best_latents)
    )
    torch.testing.assert_close(after.best_losses, torch.minimum(drawn, before.best_losses))


def test_only_ddim_from_noise_can_draw_in_other_steps() -> None:
    with pytest.raises(ValueError, match="only DDIM can draw in other steps at the end"):
        DOODL(final_steps=9)
    job, images = task(), torch.rand(2, 3, 8, 8)
    photo = Photo(images, job.denoiser, (8, 8))
    with pytest.raises(UserError, match="a photo's inversion cannot be drawn in other steps"):
        DOODL(mix=None, final_steps=9)(Task(job.model, job.denoiser, (0, 1), target(), photo))


UNTUNED = {
    "brightness": lambda: Brightness(0.9),
    "symmetry": Symmetry,
    "picture": lambda: Target(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(3))),
}


@pytest.mark.parametrize("name", ["tiny", "scenes"])
def test_a_redraw_never_delivers_more_than_the_best_that_was_found(name: str) -> None:
    """On losses that nothing was tuned on. A redraw that is worse, which there is, is not kept."""
    method = DOODL(
        iterations=2, steps=2, mix=None, optimiser=Adam(rate=0.2), perturbation=0.0, crops=0, final_steps=5
    )  # fmt: skip
    model = tiny_model() if name == "tiny" else load_once()
    worse = 0
    for loss in UNTUNED.values():
        job = Task(model, model.denoiser("a red shape"), (0, 1), loss())
        *_, before, after = states(method, job)
        found, delivered = before.best_losses, method.result(job, after)
        assert (delivered.losses <= found).all()
        torch.testing.assert_close(job.require_loss()(delivered.images), delivered.losses)
        x_0 = sample(job.denoiser, before.best_x_T[0], model.schedule.times(5))
        worse += int((job.require_loss()(model.decode(x_0)) > found).sum())
    assert worse


def test_prompts_stay_with_their_images() -> None:
    """With a prompt for each image, and images in groups, each is what it is alone."""
    model, prompts = tiny_model(), ["one", "another one", "a third"]
    method = DOODL(iterations=2, steps=3, mix=None, optimiser=Adam(rate=0.1), crops=2)
    job = Task(model, model.denoiser(prompts), (4, 5, 6), target()).under(Plan(batch_size=2))
    whole = method(job)
    for i, prompt in enumerate(prompts):
        alone = method(Task(model, model.denoiser(prompt), (4 + i,), target()))
        torch.testing.assert_close(whole.images[i : i + 1], alone.images)
        torch.testing.assert_close(whole.history[:, i : i + 1], alone.history)


def preset(name: str, loss: str = "classifier", *, photo: bool = False) -> DOODL:
    return DOODL(**DOODL.preset(Situation(name, loss, photo)))


def test_quick_spends_a_tenth_of_the_papers_passes_at_most() -> None:
    faithful, quick = preset("faithful"), preset("quick")
    of_faithful = faithful.iterations * faithful.steps * 2 * 3
    of_quick = (
        quick.start_of * quick.steps
        + quick.iterations * quick.steps * 3
        + quick.steps
        + quick.final_steps
    )
    assert of_quick <= of_faithful / 10
    assert (
        preset("quick", "text").target is None
    )  # a loss at which to stop is known of classes only
    with pytest.raises(UserError, match="quick draws from noise"):
        preset("quick", photo=True)


def test_faithful_rates_are_the_papers() -> None:
    rates = {
        loss: preset("faithful", loss).optimiser.rate
        for loss in ("classifier", "text", "aesthetic", "image")
    }
    assert rates == {"classifier": 0.05, "text": 0.1, "aesthetic": 1.0, "image": 3.0}
    assert preset("faithful", "image").iterations == 250
    scales = {loss: one_step("faithful", loss).scale for loss in rates}
    assert scales == {"classifier": 5.0, "text": 30.0, "aesthetic": 30.0, "image": 300.0}
    assert not preset("faithful", photo=True).renormalise


def one_step(name: str, loss: str) -> OneStepGuidance:
    return OneStepGuidance(**OneStepGuidance.preset(Situation(name, loss)))


@pytest.mark.parametrize("kind", METHODS.own)
def test_every_preset_is_a_setting_of_every_method(kind: str) -> None:
    method: Any = METHODS.own[kind]
    for name in PRESETS:
        for loss in ("classifier", "text", "image", "symmetry"):
            for photo in (False, True):
                if (kind, name, photo) != ("doodl", "quick", True):
                    assert method(**method.preset(Situation(name, loss, photo))).kind == kind


def test_a_result_has_its_history() -> None:
    result: Result = DOODL(iterations=1, steps=2, mix=None, crops=0)(task())
    assert result.terms.shape == (2, 1, 2)
    torch.testing.assert_close(result.history, result.terms[:, 0])


def test_towards_a_picture_s_pixels_the_tuned_gradient_is_that_of_the_last_steps() -> None:
    found = preset("tuned", "picture")
    assert found.last == 5
    assert found.start_of == 1
    assert preset("tuned", "picture", photo=True).last is None
    assert preset("tuned", "image").last is None
