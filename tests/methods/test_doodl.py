"""DOODL against Algorithm 1 written out by hand, and what a run promises."""

from __future__ import annotations

import pytest
import torch

from chainrule import EDICT, Backprop, UserError, sample, sample_state
from chainrule.losses import Call, Cutouts, Loss
from chainrule.methods import Adam, Doodl, Momentum, Task, best_of, doodl, one_step, plain
from chainrule.methods.doodl import CROPS, PERTURBATION, advance, run, start
from chainrule.methods.presets import preset
from chainrule.plan import Plan
from conftest import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")


def target() -> Loss:
    """Bright at the top, dark at the bottom."""
    wanted = torch.linspace(1, 0, 8)[:, None]
    return Call(lambda images: (images - wanted).square().mean(dim=(1, 2, 3)))


def task(seeds: tuple[int, ...] = (0, 1), loss: Loss | None = None) -> Task:
    model = tiny_model()
    return Task(model, model.denoiser("a prompt"), seeds, loss or target())


def test_two_iterations_are_algorithm_1() -> None:
    job = task()
    settings = Doodl(iterations=2, steps=4, optimiser=Momentum(rate=5.0, clip=1e-2), crops=3)
    states = list(run(job, settings, start(job, settings)))
    x_T = job.x_T
    radius, velocity = x_T.flatten(1).norm(dim=1), torch.zeros_like(x_T)
    for i in range(2):
        x = x_T.clone().requires_grad_()
        pair = sample_state(job.denoiser, (x, x), job.model.schedule.times(4), solver=EDICT(0.93), gradient=Backprop())
        crops = Cutouts(target(), 3).replayed(job.noise, CROPS + i)
        loss = 0.5 * (crops(job.model.decode(pair[0])) + crops(job.model.decode(pair[1])))
        torch.testing.assert_close(states[i].history[i], loss.detach())
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        velocity = 0.9 * velocity + (-5.0 * gradient).clamp(-1e-2, 1e-2)
        x_T = x_T + velocity + 1e-2 * job.noise.normal(PERTURBATION + i, x_T.shape[1:])
        x_T = x_T * (radius / x_T.flatten(1).norm(dim=1))[:, None, None, None]
        torch.testing.assert_close(states[i].x_T, torch.stack([x_T, x_T]))
    assert len(states) == 3  # the noise after the last update is loss_and_gradient too
    assert states[2].x_T is states[1].x_T


def test_the_defaults_are_the_papers() -> None:
    settings = Doodl()
    assert (settings.steps, settings.mix, settings.crops, settings.cut_power) == (50, 0.93, 16, 0.3)
    assert isinstance(settings.optimiser, Momentum)
    assert (settings.optimiser.clip, settings.optimiser.momentum, settings.perturbation) == (1e-3, 0.9, 1e-2)
    assert settings.renormalise


@pytest.mark.parametrize("optimiser", [Momentum(rate=20.0, clip=0.05), Adam(rate=0.1)], ids=["momentum", "adam"])
@pytest.mark.parametrize("mix", [0.93, None], ids=["edict", "ddim"])
def test_the_loss_falls_and_the_best_is_kept(optimiser, mix) -> None:
    job = task()
    settings = Doodl(iterations=15, steps=5, optimiser=optimiser, mix=mix, crops=0)
    seen = []
    result = doodl(job, settings, on_iteration=seen.append)
    history = seen[-1].history
    assert (result.losses < 0.7 * history[0]).all()
    torch.testing.assert_close(result.losses, target()(result.images))
    if mix is None:  # EDICT's history is of the pair, its image is x_0
        assert torch.equal(result.losses, history.min(dim=0).values)
    torch.testing.assert_close(result.images, job.model.decode(result.latents))
    assert len(history) == 16
    assert torch.equal(result.history, history)


def test_the_best_is_chosen_by_the_whole_image_not_by_lucky_crops() -> None:
    job, chosen = task(), []
    settings = Doodl(iterations=6, steps=3, optimiser=Adam(rate=0.3), mix=None, crops=1)
    result = doodl(job, settings, on_iteration=lambda state: chosen.append(state.x_T[0]))
    tried = torch.stack([doodl(job, Doodl(iterations=0, steps=3, mix=None, crops=0), x_T=x).losses for x in chosen])
    first = plain(job, steps=3).losses
    torch.testing.assert_close(result.losses, torch.minimum(first, tried.min(dim=0).values))


def test_each_image_is_optimised_as_if_alone() -> None:
    settings = Doodl(iterations=3, steps=3, optimiser=Adam(rate=0.1), crops=2)
    together, alone = doodl(task((0, 5)), settings), doodl(task((5,)), settings)
    torch.testing.assert_close(together.latents[1:], alone.latents, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_ends_as_one_never_stopped() -> None:
    job = task()
    settings = Doodl(iterations=4, steps=3, optimiser=Adam(rate=0.1), crops=2)
    whole = list(run(job, settings, start(job, settings)))
    half = advance(job, settings, advance(job, settings, start(job, settings)))
    resumed = list(run(job, settings, half))[-1]
    for a, b in zip(whole[-1], resumed, strict=True):
        assert torch.equal(a, b)


def test_it_stops_early_when_every_image_is_good_enough() -> None:
    job = task()
    settings = Doodl(iterations=9, steps=3, crops=0, mix=None)
    first = advance(job, settings, start(job, settings)).history[0].max().item()
    enough = settings.model_copy(update={"target": first})
    states = list(run(job, enough, start(job, enough)))
    assert len(states) == 1


def test_no_iterations_give_the_plain_image() -> None:
    result = doodl(task(), Doodl(iterations=0, steps=3, mix=None, crops=0))
    torch.testing.assert_close(result.images, plain(task(), steps=3).images)


def test_a_loss_that_is_nan_says_where_and_what_to_do() -> None:
    job = task((3, 4), Call(lambda images: images.mean(dim=(1, 2, 3)) * torch.tensor([1.0, torch.nan])))
    with pytest.raises(UserError, match=r"nan in iteration 0 \(seed 4\): lower the rate"):
        doodl(job, Doodl(iterations=1, steps=2, crops=0))


def test_a_gradient_that_is_not_finite_says_where() -> None:
    job = task((3, 4), Call(lambda images: (images - images.detach()).square().sum(dim=(1, 2, 3)).sqrt()))
    with pytest.raises(UserError, match=r"the gradient is nan in iteration 0 \(seed 3\)"):
        doodl(job, Doodl(iterations=1, steps=2, crops=0))


def test_a_task_without_a_loss_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(UserError, match="needs a loss"):
        doodl(Task(model, model.denoiser("x"), (0,)), Doodl(iterations=1, steps=2))


def test_best_of_keeps_the_best_draw_of_each_seed() -> None:
    job = task((0, 1, 2))
    single, many = best_of(job, 1, steps=3), best_of(job, 6, steps=3)
    torch.testing.assert_close(single.images, plain(job, steps=3).images)
    assert (many.losses <= single.losses).all()
    assert (many.losses < single.losses).any()
    two = best_of(job, 2, steps=3)
    assert (many.losses < two.losses).any()  # the draws after the second are new ones
    torch.testing.assert_close(target()(many.images), many.losses)


def test_one_step_guidance_lowers_the_loss() -> None:
    assert (one_step(task(), scale=30.0, steps=20).losses < plain(task(), steps=20).losses).all()


def test_it_may_start_at_the_best_of_several_draws() -> None:
    job, settings = task(), Doodl(iterations=0, steps=3, mix=None, crops=0, start_of=5)
    torch.testing.assert_close(doodl(job, settings).images, best_of(job, 5, steps=3).images)


def test_an_image_that_is_good_enough_is_left_alone() -> None:
    settings = Doodl(iterations=6, steps=3, mix=None, optimiser=Adam(rate=0.3), crops=0, perturbation=0.0)
    free = doodl(task((0, 1, 2)), settings)
    reached = free.history.cummin(dim=0).values  # (7, 3)
    enough = reached[3, 0].item() + 1e-6  # the first image gets there in its fourth iteration, if not before
    job = task((0, 1, 2))
    found = doodl(job, settings.model_copy(update={"target": enough}))
    done = [int((reached[:, i] <= enough).nonzero()[0]) + 1 if reached[-1, i] <= enough else 7 for i in range(3)]
    for i, k in enumerate(done):
        torch.testing.assert_close(found.history[:k, i], free.history[:k, i])
        assert (found.history[k:, i] == found.history[k - 1, i]).all()
    assert min(done) < 7
    torch.testing.assert_close(found.losses, torch.stack([reached[k - 1, i] for i, k in enumerate(done)]))


def test_images_that_are_done_cost_nothing() -> None:
    job = task((0, 1, 2))
    shown: list[int] = []
    network = job.model.network
    ask = type(network).__call__

    class Counting(type(network)):
        def __call__(self, x, t, conditioning):
            shown.append(len(x))
            return ask(self, x, t, conditioning)

    network.__class__ = Counting
    enough = job.wanted()(plain(job, steps=3).images).max().item()
    settings = Doodl(iterations=4, steps=3, mix=None, crops=0, target=enough)
    shown.clear()
    assert doodl(job, settings).history.shape == (1, 3)
    assert sum(shown) == 3 * 2 * 3  # three steps of three guidance pairs: nothing was left to do


def test_the_best_is_drawn_with_more_steps_at_the_end() -> None:
    job = task()
    settings = Doodl(iterations=3, steps=3, mix=None, optimiser=Adam(rate=0.1), final_steps=9)
    found = doodl(job, settings)
    again = sample(job.denoiser, found.x_T, job.model.schedule.times(9))
    torch.testing.assert_close(found.latents, again)
    torch.testing.assert_close(found.losses, job.wanted()(job.model.decode(again)))
    with pytest.raises(UserError, match="only DDIM from noise"):
        doodl(job, settings.model_copy(update={"mix": 0.93}))


def test_prompts_stay_with_their_images() -> None:
    """With a prompt for each image, and images in groups, each is what it is alone."""
    model, prompts = tiny_model(), ["one", "another one", "a third"]
    settings = Doodl(iterations=2, steps=3, mix=None, optimiser=Adam(rate=0.1), crops=2)
    job = Task(model, model.denoiser(prompts), (4, 5, 6), target()).under(Plan(together=2))
    whole = doodl(job, settings)
    for i, prompt in enumerate(prompts):
        alone = doodl(Task(model, model.denoiser(prompt), (4 + i,), target()), settings)
        torch.testing.assert_close(whole.images[i : i + 1], alone.images)
        torch.testing.assert_close(whole.history[:, i : i + 1], alone.history)


def test_quick_spends_a_tenth_of_the_papers_passes_at_most() -> None:
    faithful, quick = preset("faithful").doodl, preset("quick").doodl
    of_faithful = faithful.iterations * faithful.steps * 2 * 3
    of_quick = quick.start_of * quick.steps + quick.iterations * quick.steps * 3 + quick.steps + quick.final_steps
    assert of_quick <= of_faithful / 10
    assert preset("quick", "text").doodl.target is None  # a loss at which to stop is known of classes only
    with pytest.raises(UserError, match="quick draws from noise"):
        preset("quick", photo=True)
